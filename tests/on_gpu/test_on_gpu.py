"""Everything on a real GPU: the matrix of kernels, and the trained model, against the references."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import emulated_gpu
import numpy as np
import pytest
from compiling import check_equal
from gpu_cases import CASES, families_case, image_case, network_case, tails_case, tiles_case

from lqcompile.cli import main
from lqcompile.cuda.driver import Gpu
from lqcompile.cuda.model import runs
from lqcompile.cuda.nvrtc import compile_cuda
from lqcompile.target import find

DATA = Path(__file__).parents[2] / "lqcompile" / "data"

TARGETS = ("cuda-ptx", "cuda-a100", "cuda-h200", "jetson-orin")

MORE = {
    **CASES,
    "network of real bases": partial(network_case, integer=False, seed=5),
    **{
        f"families {channels} {seed}": partial(families_case, channels=channels, seed=seed)
        for channels in (1, 3, 33, 70)
        for seed in range(4)
    },
    **{f"tails {seed}": partial(tails_case, seed=seed) for seed in range(4)},
    **{f"tiles {seed}": partial(tiles_case, seed=seed) for seed in range(4)},
    **{f"images {seed}": partial(image_case, seed=seed) for seed in range(4)},
}


def target_of(gpu: Gpu, name: str) -> str:
    if not all(runs(feature, gpu.capability) for feature in find(name).features):
        pytest.skip(f"{gpu.name} does not run {name}")
    return name


@pytest.mark.parametrize("name", MORE)
@pytest.mark.parametrize("target", TARGETS)
def test_networks_equal_the_reference(gpu: Gpu, target: str, name: str) -> None:
    machine = find(target_of(gpu, target))
    case = MORE[name](target)
    architecture = str(machine.llvm["arch"])
    model = emulated_gpu.load_plan(case.plan, machine, case.families, lambda code: compile_cuda(code, architecture))
    check_equal(case.plan, model, case.x, tolerance=case.tolerance)
    whole = model.run({"x": np.concatenate([case.x] * 100)})
    for output, array in model.run({"x": case.x}).items():
        np.testing.assert_array_equal(whole[output][-len(array) :], array, err_msg="a batch and its samples differ")
    emulated_gpu.without_fewer(model)
    for output, array in model.run({"x": case.x}).items():
        np.testing.assert_array_equal(whole[output][-len(array) :], array, err_msg="kernels for few and many differ")


@pytest.mark.parametrize("target", ["cuda", *TARGETS])
def test_the_trained_model_is_equal_to_its_onnx_file(gpu: Gpu, target: str, capsys: pytest.CaptureFixture) -> None:
    if target != "cuda":
        target_of(gpu, target)
    model, samples = DATA / "fashion_mnist_w2a2.onnx", DATA / "fashion_mnist_test.npz"
    assert main(["verify", str(model), "--target", target, "--samples", str(samples), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True
