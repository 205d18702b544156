"""Choosing kernels by measurement: candidates, the check of their integers, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from compiling import X86, check_equal, compile_plan, missing
from lqcompile.schedules.problem import Tile
from models import chain_model
from plans import PlanBuilder, random_affine, random_int8, random_low_bit, random_quantizer, random_uniform

from lqcompile import cpu, select, trials
from lqcompile.artifact import read_artifact
from lqcompile.build import build
from lqcompile.cli import main
from lqcompile.errors import BuildError, TargetError
from lqcompile.graph.plan import Clamp, Geometry, MaxPool, Plan
from lqcompile.lowering.choose import Candidate
from lqcompile.lowering.lower import contraction_layers
from lqcompile.runtime import load
from lqcompile.select import HERE, measurable, select_kernels
from lqcompile.target import find

RUNNABLE = [name for name in X86 if not missing(find(name))]

needs_x86 = pytest.mark.skipif(not RUNNABLE, reason="this CPU runs none of the x86 targets")


def network(rng: np.random.Generator) -> Plan:
    """Two layers of one shape on integer bases, one on float bases behind a pooling, and an 8-bit layer at each end."""
    builder = PlanBuilder(rng, (3, 12, 13))
    around = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))
    relu = Clamp(low=0.0, high=np.inf)
    image = builder.quantized_input(random_uniform(rng, "int8"))
    codes = image
    for integer in (True, True, False):
        made = random_quantizer(rng, 2, integer=integer, offset=not integer)
        weights = (
            random_int8(rng, (33, 3, 3, 3)) if codes is image else random_low_bit(rng, (33, 33, 3, 3), 2, integer=True)
        )
        (codes,) = builder.contract(codes, weights, around, (random_affine(rng, 33, 0.1), relu), ((made, False, ()),))
    square = MaxPool(kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0))
    following = random_quantizer(rng, 1)
    (codes,) = builder.contract(
        codes, random_low_bit(rng, (20, 33, 3, 3), 1, offset=True), around, (square,), ((following, False, ()),)
    )
    return builder.finish(*builder.contract(codes, random_low_bit(rng, (5, 20, 1, 1), 2), Geometry()))


@needs_x86
def test_the_fastest_candidates_equal_the_reference() -> None:
    rng = np.random.default_rng(0)
    plan, target = network(rng), find(RUNNABLE[-1])
    told: list[tuple[str, float]] = []
    choices = select_kernels(plan, target, lambda text, share: told.append((text, share)))
    assert [share for _, share in told] == sorted(share for _, share in told)
    layers = contraction_layers(plan, target)
    for name, choice in choices.items():
        families = {candidate.family for candidate, _ in choice.measured}
        assert families == set(select.serving(layers[name].operation, layers[name].quantizer, target.name))
        times = [time for _, time in choice.measured]
        assert times == sorted(times) and times[0] > 0
        assert (choice.family, choice.tile) == (choice.measured[0][0].family, choice.measured[0][0].tile)
    x = rng.normal(size=(2, *plan.inputs[0].shape)).astype(np.float32)
    compiled = compile_plan(plan, target, choices=choices)
    assert all(compiled.program.choices[name] == choice for name, choice in choices.items())
    check_equal(plan, compiled.load(), x)


@needs_x86
def test_candidates_read_the_halo_that_another_layer_needs() -> None:
    """A 1x1 layer beside a padded 3x3 one on the same codes: families of one format share a tensor."""
    rng = np.random.default_rng(5)
    builder = PlanBuilder(rng, (33, 9, 9))
    codes = builder.quantized_input(random_quantizer(rng, 2, integer=True))
    around = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))
    ends = builder.contract(codes, random_low_bit(rng, (64, 33, 3, 3), 1, integer=True), around)
    ends += builder.contract(codes, random_low_bit(rng, (64, 33, 1, 1), 1, integer=True), Geometry(strides=(2, 2)))
    choices = select_kernels(builder.finish(*ends), find(RUNNABLE[0]))
    assert len(choices) == 2
    assert not any("wrong integers" in choice.reason for choice in choices.values())


@needs_x86
def test_layers_of_one_shape_share_a_measurement() -> None:
    rng = np.random.default_rng(1)
    plan, target = network(rng), find(RUNNABLE[0])
    layers = contraction_layers(plan, target)
    _, first, second, third, fourth, _ = plan.regions
    signatures = {name: select._signature(layer, target) for name, layer in layers.items()}
    assert len(set(signatures.values())) == 5
    assert signatures[second.name] != signatures[first.name]
    # Between layers of equal shape the coding of what they write makes the difference.
    alike = replace(layers[second.name], stores=layers[third.name].stores)
    assert select._signature(alike, target) == signatures[third.name]
    assert signatures[fourth.name] != signatures[third.name]


@needs_x86
def test_candidates_with_wrong_integers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    builder = PlanBuilder(rng, (33, 5, 6))
    codes = builder.quantized_input(random_quantizer(rng, 2, integer=True))
    plan = builder.finish(*builder.contract(codes, random_low_bit(rng, (7, 33, 1, 1), 2, integer=True), Geometry()))
    genuine = trials.execute_region

    def off_by_one(*arguments):
        integers, outputs = genuine(*arguments)
        integers.flat[-1] += 1
        return integers, outputs

    monkeypatch.setattr(trials, "execute_region", off_by_one)
    message = (
        r"^node 'region\d': found no candidate kernel whose integers equal the reference; build with --select table "
        r"and report this as a bug$"
    )
    with pytest.raises(BuildError, match=message):
        select_kernels(plan, find(RUNNABLE[0]))


def candidates(**times: float) -> dict[Candidate, float]:
    return {
        Candidate(family=name.rstrip("12"), tile=Tile(pixels=int(name[-1]), blocks=1)): time
        for name, time in times.items()
    }


def test_the_reason_names_the_other_family() -> None:
    times = candidates(popcount1=31.0, dot1=44.0, dot2=43.4)
    choice = select._fastest("layer", set(times), times)
    assert (choice.family, choice.tile) == ("popcount", Tile(pixels=1, blocks=1))
    assert choice.reason == "measured: 1.4 x dot (31 us against 43.4 us)"
    assert [time for _, time in choice.measured] == [31.0, 43.4, 44.0]


def test_the_reason_of_a_single_family_counts_tiles() -> None:
    times = candidates(popcount1=31.0, popcount2=8.25)
    assert select._fastest("layer", set(times), times).reason == "measured: 8.25 us, the fastest of 2 tiles"


def test_a_quicker_candidate_with_wrong_integers_is_left_out() -> None:
    times = candidates(popcount1=31.0, dot1=44.0)
    choice = select._fastest("layer", {c for c in times if c.family == "dot"}, times)
    assert choice.family == "dot"
    assert choice.reason == "measured: 44 us, the fastest of 1 tile; wrong integers from popcount: report this as a bug"


def test_a_target_of_another_machine_cannot_be_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpu, "machine", lambda: "riscv64")
    message = (
        r"^target 'x86': found this machine to lack x86_64 on linux, expected one that can run it because of --select "
        r"measure; build on such a machine, with --rpc to one, or with --select table$"
    )
    with pytest.raises(TargetError, match=message):
        build(tmp_path / "model.onnx", target="x86", output=tmp_path / "model.tar", select="measure")
    assert list(tmp_path.iterdir()) == []


def test_a_variant_without_its_features_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    features = cpu.normalise(find("x86-avx2").features, "x86_64")
    monkeypatch.setattr(cpu, "machine", lambda: "x86_64")
    monkeypatch.setattr(cpu, "cpu_features", lambda: features)
    assert [target.name for target in measurable(find("x86"))] == ["x86-avx2"]
    assert HERE.missing(find("x86-avx512")) == ["avx512bw", "avx512dq", "avx512f", "avx512vl"]
    with pytest.raises(TargetError, match=r"^target 'x86-avx512': found this machine to lack avx512bw, avx512dq"):
        measurable(find("x86-avx512"))


@needs_x86
def test_build_records_and_shows_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(3)
    path, artifact = tmp_path / "model.onnx", tmp_path / "model.tar"
    onnx.save(chain_model(rng, channels=(8, 16, 12), size=(8, 8), integer=True), path)
    name = RUNNABLE[0]
    assert main(["build", str(path), "--target", name, "--select", "measure", "-o", str(artifact)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    (variant,) = read_artifact(artifact).manifest["variants"]
    assert any(layer["measured"] for layer in variant["layers"])
    assert main(["inspect", str(artifact)]) == 0
    inspected = " ".join(capsys.readouterr().out.split())
    for layer in variant["layers"]:
        if layer["measured"]:
            best = layer["measured"][0]
            assert (layer["kernel"], layer["tile"]) == (best["kernel"], best["tile"])
            assert layer["reason"].startswith("measured: ")
            entry = f"{best['kernel']} {best['tile'][0]}x{best['tile'][1]}: "
            assert layer["reason"] in shown and layer["reason"] in inspected
            assert entry in shown and entry in inspected
    assert load(artifact).run({"x": rng.normal(size=(1, 8, 8, 8)).astype(np.float32)})


@needs_x86
def test_build_says_which_variants_used_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(4)
    path, artifact = tmp_path / "model.onnx", tmp_path / "model.tar"
    onnx.save(chain_model(rng, channels=(8, 8), size=(4, 4), integer=True), path)
    assert main(["build", str(path), "--select", "measure", "-o", str(artifact)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    measured = [target.name for target in measurable(find("x86"))]
    rest = [name for name in X86 if name not in measured]
    sentence = (
        f"Measured on this machine: {', '.join(measured)}. By the cost table, because this machine cannot run them:"
    )
    assert (sentence in shown) == bool(rest)
    for variant in read_artifact(artifact).manifest["variants"]:
        assert any(layer["measured"] for layer in variant["layers"]) == (variant["name"] in measured)
