"""Device code: NVRTC compiles it for every architecture, and it holds the instructions that it is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from plans import PlanBuilder, random_low_bit, random_quantizer
from sass import disassemble

from lqcompile.cuda import nvrtc
from lqcompile.cuda.launches import make_launches
from lqcompile.cuda.nvrtc import compile_cuda
from lqcompile.cuda.source import cuda_source
from lqcompile.errors import BuildError
from lqcompile.graph.plan import Geometry
from lqcompile.lowering.families import BYTE_FAMILIES
from lqcompile.lowering.lower import lower
from lqcompile.lowering.tensor_cores import WORD_CHANNELS
from lqcompile.target import find

SASS = {
    "b1mma": ["BMMA.168256.AND.POPC", "LDGSTS", "LDSM"],
    "i8mma": ["IMMA.16832.U8.S8", "LDGSTS", "LDSM"],
    "popcount": ["POPC"],
    "dot8": ["IDP.4A.U8.S8"],
}
PTX = (
    "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc",
    "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32",
    "cp.async.cg",
    "ldmatrix.sync",
)


def layers(target: str) -> str:
    """CUDA C of a 3x3 layer of 64 channels, W2A2, in each family on integer bases and with a float64 epilogue."""
    rng = np.random.default_rng(1)
    builder = PlanBuilder(rng, (64, 14, 14))
    ends, families = [], {}
    for family in SASS:
        integer = family in BYTE_FAMILIES
        codes = builder.quantized_input(random_quantizer(rng, 2, integer=integer))
        weights = random_low_bit(rng, (64, 64, 3, 3), 2, integer=integer)
        ends += builder.contract(codes, weights, Geometry(kernel=(3, 3), pads=(1, 1, 1, 1)))
        families[builder.regions[-1].name] = family
    launches = make_launches(lower(builder.finish(*ends), find(target), families=families))
    return cuda_source(launches.module, find(target))


@pytest.fixture(scope="module", params=["cuda-a100", "cuda-h200", "jetson-orin"])
def compiled(request: pytest.FixtureRequest) -> nvrtc.DeviceCode:
    return compile_cuda(layers(request.param), str(find(request.param).llvm["arch"]))


def test_sums_stay_in_registers(compiled: nvrtc.DeviceCode) -> None:
    assert len(compiled.usage) > 8
    memory = {name: (usage.stack_bytes, usage.spilled_bytes) for name, usage in compiled.usage.items()}
    assert set(memory.values()) == {(0, 0)}, memory
    assert all(0 < usage.registers <= 255 and usage.shared_bytes <= 48 << 10 for usage in compiled.usage.values())


def test_machine_code_has_the_instructions(compiled: nvrtc.DeviceCode, tmp_path: Path) -> None:
    code = disassemble(compiled.data, tmp_path / "network.cubin")
    for number, (family, instructions) in enumerate(SASS.items()):
        name = f"kernel_region{2 * number + 1}"
        for kernel in (name, f"{name}_fewer") if family in WORD_CHANNELS else (name,):
            for instruction in instructions:
                assert instruction in code[kernel], (kernel, instruction)
            assert "DFMA" not in code[kernel], "a product and a sum are rounded as one"


def test_ptx_has_the_instructions() -> None:
    ptx = compile_cuda(layers("cuda-ptx"), "compute_80").data.decode()
    assert ".target sm_80" in ptx
    for instruction in PTX:
        assert instruction in ptx
    assert "fma.rn.f64" not in ptx


def test_bytes_are_moved_four_at_a_time() -> None:
    """TVM writes accesses that it cannot prove aligned byte by byte, with a vector of indices."""
    assert "make_int4" not in layers("cuda-a100")


def test_code_that_does_not_compile_is_a_bug() -> None:
    message = r"^CUDA compiler \(sm_80\): found NVRTC_ERROR_COMPILATION: .+; report this as a bug$"
    with pytest.raises(BuildError, match=message):
        compile_cuda("no code", "sm_80")


def test_without_nvrtc_a_build_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "LIBRARY", "libnvrtc.so.0")
    nvrtc._library.cache_clear()
    with pytest.raises(BuildError) as error:
        compile_cuda("", "sm_80")
    nvrtc._library.cache_clear()
    assert str(error.value) == (
        "CUDA: found no compiler of device code (libnvrtc.so.0), expected NVRTC 13; pip install 'lqcompile[cuda]'"
    )
