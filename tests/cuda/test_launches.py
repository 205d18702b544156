"""Launches of a program and the CUDA C of its kernels, without compiling them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from lqcompile.schedules.cuda_tensor_tile import TensorTile, tensor_tile
from lqcompile.schedules.formats import Format
from lqcompile.schedules.problem import ConvShape, SumRule
from plans import PlanBuilder, random_affine, random_low_bit, random_quantizer

from lqcompile.cuda import launches as launching
from lqcompile.cuda import source
from lqcompile.cuda.launches import Launches, make_launches
from lqcompile.cuda.source import cuda_source
from lqcompile.errors import BuildError, UnsupportedError
from lqcompile.graph.plan import Geometry
from lqcompile.lowering.lower import lower
from lqcompile.lowering.program import Program
from lqcompile.target import find

TARGET = find("cuda-a100")

AROUND = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))


@pytest.fixture(scope="module")
def program() -> Program:
    """Three layers of one shape, of real bases; the last one's codes leave as real numbers."""
    rng = np.random.default_rng(0)
    builder = PlanBuilder(rng, (64, 9, 7))
    coder = random_quantizer(rng, 2)
    value = builder.quantized_input(coder)
    for _ in range(3):
        weights = random_low_bit(rng, (64, 64, 3, 3), 2)
        value = builder.contract(value, weights, AROUND, (random_affine(rng, 64),), ((coder, False, ()),))[0]
    return lower(builder.finish(value), TARGET, families={f"region{index}": "b1mma" for index in (1, 2, 3)})


@pytest.fixture(scope="module")
def made(program: Program) -> Launches:
    return make_launches(program)


def test_a_step_is_a_launch_of_whole_tiles(program: Program, made: Launches) -> None:
    assert len(made.steps) == len(program.steps) and len(made.sums) == len(program.sums) == 3
    layer = next(entry for step, entry in zip(program.steps, made.steps, strict=True) if step.region == "region1")
    assert {key: layer[key] for key in ("rows", "tile", "columns", "warps")} == {
        "rows": 63,
        "tile": 64,
        "columns": 1,
        "warps": 4,
    }
    assert layer["arguments"][0][0] == layer["arguments"][-1][0] == "arena"
    assert {where for where, _ in layer["arguments"][1:-1]} == {"params"}


def test_equal_kernels_are_compiled_once(program: Program, made: Launches) -> None:
    """The layers differ in their weights and thresholds only, and those are parameters."""
    first, second = (
        entry["kernel"]
        for step, entry in zip(program.steps, made.steps, strict=True)
        if step.region in ("region1", "region2")
    )
    assert first == second


def test_tensors_that_live_at_one_time_lie_apart(made: Launches) -> None:
    for entry in made.steps:
        places = [tuple(argument) for argument in entry["arguments"] if argument[0] != "params"]
        assert len(set(places)) == len(places)


def test_a_tensor_beyond_the_limit_names_its_node(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "LARGEST", 1000)
    message = (
        r"^node 'region0': found a tensor of \d+ elements, expected at most 1000 on a GPU; make the image smaller$"
    )
    with pytest.raises(UnsupportedError, match=message):
        make_launches(program)


def test_float64_constants_are_exact(program: Program, made: Launches) -> None:
    """TVM prints 15 digits of them: they must be written by their bits."""
    code = cuda_source(made.module, TARGET)
    assert re.search(r"__longlong_as_double\(\(int64_t\)\d{16,}", code)
    assert not re.search(r"double v_\d+ = [^;]*\d\.\d{15}\b(?![\d*]*f)", code)


def test_a_module_that_tvm_refuses_names_the_target(made: Launches) -> None:
    with pytest.raises(BuildError, match=r"^target 'cuda-a100': TVM cannot compile the network: .+$"):
        cuda_source(made.module, replace(TARGET, llvm={"arch": "vax"}))


def test_code_of_another_tvm_is_refused(made: Launches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "PRELUDE_END", "what another TVM writes")
    message = r"^target 'cuda-a100': found CUDA code of another TVM, expected 0\.27; install that version$"
    with pytest.raises(BuildError, match=message):
        cuda_source(made.module, TARGET)


def test_tiles_hold_the_sums_of_at_most_16_pairs() -> None:
    four, five = (SumRule(act_planes=count) for count in (4, 5))
    source = Format(kind="bits", channels=64, height=8, width=8, align=32, planes=5)
    shape = ConvShape(
        source=source,
        kernel=(1, 1),
        strides=(1, 1),
        dilations=(1, 1),
        origin=(0, 0),
        out_height=8,
        out_width=8,
        blocks=2,
        words=2,
        weight_planes=4,
    )
    assert tensor_tile(shape, four, None) == TensorTile(pixels=32, blocks=1)
    assert tensor_tile(replace(shape, weight_planes=1), four, None) == TensorTile(pixels=64, blocks=2)
    with pytest.raises(ValueError, match=r"^found 20 pairs of planes, expected as many as 128 registers hold the sums"):
        tensor_tile(shape, five, None)
