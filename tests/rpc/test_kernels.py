"""Choosing kernels by measurement on a board, over loopback."""

import json
from dataclasses import replace

import loopback
import numpy as np
import onnx
import pytest
from compiling import X86, check_equal, compile_plan, missing
from models import classifier_model
from plans import PlanBuilder, random_low_bit, random_quantizer

from lqcompile.artifact import read_artifact
from lqcompile.cli import main
from lqcompile.errors import DeviceError, TargetError
from lqcompile.graph.plan import Geometry
from lqcompile.kernels import Kernels
from lqcompile.rpc.device import Device
from lqcompile.rpc.kernels import Board
from lqcompile.select import HERE, measurable, select_kernels
from lqcompile.target import find

WAIT_S = 60.0

RUNNABLE = [name for name in X86 if not missing(find(name))]

pytestmark = pytest.mark.skipif(not RUNNABLE, reason="this CPU runs none of the x86 targets")


def network(rng):
    """One low-bit layer that several families serve."""
    builder = PlanBuilder(rng, (16, 9, 8))
    codes = builder.quantized_input(random_quantizer(rng, 2, integer=True))
    weights = random_low_bit(rng, (24, 16, 3, 3), 2, integer=True)
    return builder.finish(*builder.contract(codes, weights, Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))))


class Recorder:
    """A machine that keeps the job it was given, and what it was loaded as."""

    name = "recorder"

    def __init__(self, machine):
        self.machine = machine
        self.missing = machine.missing

    def open(self, job):
        self.job = job
        self.steps = self.machine.open(job)
        return self.steps


@pytest.mark.parametrize("seed", range(2))
def test_a_board_computes_and_chooses_as_this_machine(tmp_path, seed):
    rng = np.random.default_rng(seed)
    plan, target = network(rng), find(RUNNABLE[-1])
    with loopback.server(tmp_path) as program, Device(program.address, timeout_s=WAIT_S) as device:
        recorder = Recorder(Board(device))
        choices = select_kernels(plan, target, machine=recorder)
        job, there = recorder.job, recorder.steps
        here = Kernels(job)
        outputs = sorted(set(range(len(job.ports))) - set(job.contents))
        for step in range(len(outputs)):  # each writes a port of its own
            here.run(step, outputs[0])
            there.run(step, outputs[0])
        for port in outputs:
            found, expected = there.run(0, port), here.run(0, port)
            assert found.dtype == expected.dtype and found.any()
            np.testing.assert_array_equal(found, expected)
        pair = Board(device).open(replace(job, beside=job))
        assert [len(seconds) for seconds in pair.times([0, 1], 3, beside=[1])] == [3, 3, 3]
        assert pair.run(0, outputs[0]).any()
    assert {choice.family for choice in choices.values()}
    local = select_kernels(plan, target)
    assert choices.keys() == local.keys()
    for name, choice in choices.items():
        assert choice.reason.startswith("measured: ")
        assert {candidate for candidate, _ in choice.measured} == {candidate for candidate, _ in local[name].measured}
    x = rng.normal(size=(2, *plan.inputs[0].shape)).astype(np.float32)
    check_equal(plan, compile_plan(plan, target, choices=choices).load(), x)


def test_what_a_board_can_run(tmp_path):
    with loopback.server(tmp_path) as program, Device(program.address, timeout_s=WAIT_S) as device:
        assert [target.name for target in measurable(find("x86"), Board(device))] == RUNNABLE
        assert Board(device).missing(find("raspberry-pi-4")) == HERE.missing(find("raspberry-pi-4"))
    with loopback.server(tmp_path, fault="old CPU") as program, Device(program.address, timeout_s=WAIT_S) as device:
        message = (
            rf"^target 'x86': found board {program.name} to lack avx2, bmi2, fma, popcnt, expected one that can run"
        )
        with pytest.raises(TargetError, match=message):
            measurable(find("x86"), Board(device))


def test_kernels_have_to_be_opened(tmp_path):
    with (
        loopback.server(tmp_path) as program,
        Device(program.address, timeout_s=WAIT_S) as device,
        pytest.raises(DeviceError, match=r"board: found no kernels, expected 'open_kernels' before"),
    ):
        device.call("run_kernel", {"step": 0, "port": 0})


def test_no_choice_by_times_under_emulation(tmp_path):
    plan, target = network(np.random.default_rng(5)), find(RUNNABLE[0])
    with (
        loopback.server(tmp_path, fault="emulated") as program,
        Device(program.address, timeout_s=WAIT_S) as device,
        pytest.raises(DeviceError, match=r"found qemu-user emulation, expected hardware"),
    ):
        select_kernels(plan, target, machine=Board(device))


def test_build_measures_on_a_board(tmp_path, capsys):
    onnx.save(classifier_model(np.random.default_rng(11), shape=(1, 8, 8)), tmp_path / "model.onnx")
    command = ["build", str(tmp_path / "model.onnx"), "--target", RUNNABLE[0], "-o", str(tmp_path / "model.tar")]
    with loopback.server(tmp_path) as program:
        assert main([*command, "--select", "measure", "--rpc", program.name, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["measured"] == [RUNNABLE[0]]
        (variant,) = read_artifact(tmp_path / "model.tar").manifest["variants"]
        assert any(layer["measured"] for layer in variant["layers"])
        (tmp_path / "model.tar").unlink()
        assert main([*command, "--rpc", program.name]) == 1
        error = capsys.readouterr().err
        assert "build: found a board without --select measure, expected both; a build needs no board else" in error
    with loopback.server(tmp_path, fault="emulated") as program:
        assert main([*command, "--select", "measure", "--rpc", program.name]) == 1
        assert "found qemu-user emulation, expected hardware" in capsys.readouterr().err
    assert not (tmp_path / "model.tar").exists()
