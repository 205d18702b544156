"""Warpgroup instructions of Hopper: exact in emulation, in the machine code, and never chosen without a measurement."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import emulated_gpu
import numpy as np
import pytest
from plans import PlanBuilder, random_low_bit, random_quantizer
from sass import disassemble

from lqcompile.cuda.launches import make_launches
from lqcompile.cuda.nvrtc import compile_cuda
from lqcompile.cuda.source import cuda_source
from lqcompile.graph.plan import Geometry, Plan
from lqcompile.lowering.choose import Candidate, choose, serving
from lqcompile.lowering.lower import lower
from lqcompile.records.key import make_key
from lqcompile.target import find
from lqcompile.trials import is_equal
from lqcompile.tuning.task import make_tasks
from lqcompile.tuning.work import compile_candidates, read_compiled

TARGET = find("cuda-h200")
AROUND = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))


def layer(rng: np.random.Generator, channels: int, outputs: int, bits: tuple[int, int], size: tuple[int, int]) -> Plan:
    """A 3x3 layer on real bases."""
    builder = PlanBuilder(rng, (channels, *size))
    codes = builder.quantized_input(random_quantizer(rng, bits[1]))
    return builder.finish(*builder.contract(codes, random_low_bit(rng, (outputs, channels, 3, 3), bits[0]), AROUND))


@pytest.mark.parametrize("seed", [0])
def test_every_width_chunk_and_stage_equals_the_reference(gpu: emulated_gpu.Driver, tmp_path: Path, seed: int) -> None:
    """Rows of 32, 64 and 128 bytes, one and two warpgroups, all widths of the instruction."""
    rng = np.random.default_rng(seed)
    plan = layer(rng, 160, 256, (1, 1), (6, 11))
    (task,) = make_tasks(plan, TARGET, make_key(TARGET, "GPU", ()), lambda _doing, _share: None)
    task.save(tmp_path / "task")
    kinds = {(tile.pixels, tile.blocks, tile.unroll): tile for tile in task.spaces["b1wgmma"].tiles}
    assert {blocks for _, blocks, _ in kinds} == {1, 2, 4, 8}
    wanted = [(64, 8, 1), (128, 4, 1), (128, 2, 2), (64, 1, 4)]
    chosen = tuple(Candidate(family="b1wgmma", tile=replace(kinds[kind], stages=2 + kind[2] % 2)) for kind in wanted)
    compiled = read_compiled(compile_candidates(str(tmp_path / "task"), chosen, str(tmp_path / "made")))
    kernels = compiled.job.load()
    for candidate, check in zip(chosen, compiled.checks, strict=True):
        assert check is not None and is_equal(kernels, check, task.expected), candidate


def test_machine_code_has_the_instruction_and_no_spills(tmp_path: Path) -> None:
    plan = layer(np.random.default_rng(1), 256, 128, (2, 2), (14, 14))
    name = plan.regions[-1].name
    launches = make_launches(lower(plan, TARGET, families={name: "b1wgmma"}))
    code = compile_cuda(cuda_source(launches.module, TARGET), "sm_90a")
    usage = code.usage[f"kernel_{name}"]
    assert (usage.stack_bytes, usage.spilled_bytes) == (0, 0) and usage.shared_bytes <= 48 << 10
    text = disassemble(code.data, tmp_path / "network.cubin")[f"kernel_{name}"]
    assert "BGMMA.64x64x256.AND.POPC" in text and "WARPGROUP.DEPBAR" in text and "FENCE.VIEW.ASYNC" in text
    assert "DFMA" not in text


def test_only_measuring_chooses_it() -> None:
    plan = layer(np.random.default_rng(2), 256, 64, (2, 2), (14, 14))
    region = plan.regions[-1]
    quantizer = plan.values[region.inputs[0]].quantizer
    assert "b1wgmma" in serving(region.operation, quantizer, "cuda-h200")
    assert "b1wgmma" not in serving(region.operation, quantizer, "cuda-a100")
    choice = choose(region.operation, quantizer, "cuda-h200")
    assert choice.family == "b1mma" and "b1wgmma" not in dict(choice.estimates)


def test_tiles_are_left_out_where_nothing_fits() -> None:
    """Four bits each are 16 pairs of planes: `mma` has registers for them, `wgmma` of 64 rows has not."""
    plan = layer(np.random.default_rng(3), 64, 64, (4, 4), (8, 8))
    region = plan.regions[-1]
    families = serving(region.operation, plan.values[region.inputs[0]].quantizer, "cuda-h200")
    assert "b1mma" in families and "b1wgmma" not in families
