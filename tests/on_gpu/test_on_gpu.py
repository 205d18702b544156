"""Everything on a real GPU: the matrix of kernels, and the trained model, against the references."""

from __future__ import annotations

import json
from pathlib import Path

import emulated_gpu
import pytest
from gpu_cases import MATRIX
from kept_plans import check_network

from lqcompile.cli import main
from lqcompile.cuda.driver import Gpu
from lqcompile.cuda.model import runs
from lqcompile.cuda.nvrtc import compile_cuda
from lqcompile.target import find

DATA = Path(__file__).parents[2] / "lqcompile" / "data"

TARGETS = ("cuda-ptx", "cuda-a100", "cuda-h200", "jetson-orin")


def target_of(gpu: Gpu, name: str) -> str:
    if not all(runs(feature, gpu.capability) for feature in find(name).features):
        pytest.skip(f"{gpu.name} does not run {name}")
    return name


@pytest.mark.parametrize("name", MATRIX)
@pytest.mark.parametrize("target", TARGETS)
def test_networks_equal_the_reference(gpu: Gpu, target: str, name: str) -> None:
    machine = find(target_of(gpu, target))
    case = MATRIX[name](target)
    architecture = str(machine.llvm["arch"])
    model = emulated_gpu.load_plan(case.plan, machine, case.families, lambda code: compile_cuda(code, architecture))
    check_network(case.plan, model, case.x, case.tolerance)


@pytest.mark.parametrize("target", ["cuda", *TARGETS])
def test_the_trained_model_is_equal_to_its_onnx_file(gpu: Gpu, target: str, capsys: pytest.CaptureFixture) -> None:
    if target != "cuda":
        target_of(gpu, target)
    model, samples = DATA / "fashion_mnist_w2a2.onnx", DATA / "fashion_mnist_test.npz"
    assert main(["verify", str(model), "--target", target, "--samples", str(samples), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True
