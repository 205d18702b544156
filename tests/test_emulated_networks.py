"""ResNet-18 on every x86 target, on emulated processors: outputs equal to those of AVX2 on this one, bit for bit."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from compiling import X86, compile_plan, missing, skip_unless_emulated
from emulated_pc import pc_asked

from lqcompile.graph.check import load_checked
from lqcompile.graph.fuse import make_plan
from lqcompile.graph.plan import Plan
from lqcompile.target import find

torch = pytest.importorskip("torch")

from lqcompile import models  # noqa: E402
from lqcompile.nn import calibrate, export  # noqa: E402

AVX2, *ADDED = X86

SIZE = 64

pytestmark = pytest.mark.skipif(
    not pc_asked() or bool(missing(find(AVX2))), reason="takes minutes; LQCOMPILE_TEST_PC=1 asks for it, on AVX2"
)


@cache
def network(bits: tuple[int, int], folder: Path) -> tuple[Plan, np.ndarray, dict[str, np.ndarray]]:
    """A plan with an input and the outputs of the AVX2 variant."""
    torch.manual_seed(0)
    model = models.create("resnet18", weight_bits=bits[0], act_bits=bits[1], image_size=SIZE)
    images = torch.randn(2, 3, SIZE, SIZE)
    calibrate(model, [images], max_passes=2, weight_limit=14, act_limit=15)
    export(model.eval(), images[:1], folder / "model.onnx")
    plan = make_plan(load_checked(folder / "model.onnx"))
    x = images[1:].numpy()
    return plan, x, compile_plan(plan, find(AVX2)).load().run({plan.inputs[0].name: x})


@pytest.mark.parametrize("name", ADDED)
@pytest.mark.parametrize("bits", [(1, 1), (1, 2), (2, 2), (3, 3)], ids=lambda bits: "w{}a{}".format(*bits))
def test_outputs_equal_those_of_avx2(
    bits: tuple[int, int], name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    skip_unless_emulated(find(name))
    plan, x, expected = network(bits, tmp_path_factory.getbasetemp())
    found = compile_plan(plan, find(name)).emulated(name).run({plan.inputs[0].name: x})
    assert found.keys() == expected.keys()
    for output in expected:
        np.testing.assert_array_equal(found[output], expected[output])
