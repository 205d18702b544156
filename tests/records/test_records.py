"""Tuned kernels: files of them, where they hold, and what a build makes of them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from compiling import X86, missing
from lqcompile.schedules.problem import CHANNELS_OUTERMOST, Tile
from models import chain_model
from plans import PlanBuilder, random_low_bit, random_quantizer

from lqcompile import cpu
from lqcompile.build import build
from lqcompile.cli import main
from lqcompile.errors import TuningError
from lqcompile.graph.check import load_checked
from lqcompile.graph.fuse import make_plan
from lqcompile.graph.plan import Geometry, Plan
from lqcompile.records import instance as instance_module
from lqcompile.records.apply import apply_records, make_choice, read_tile, shipped_records
from lqcompile.records.instance import canonical, contraction_instances, digest, in_words
from lqcompile.records.key import Key, key_here, make_key
from lqcompile.records.tuned import Timed, Tuned, merge, read_tuned, write_tuned
from lqcompile.runtime import load
from lqcompile.target import find, names

RUNNABLE = [name for name in X86 if not missing(find(name))]
HERE = find((RUNNABLE or X86)[0])
AROUND = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))


def network(seed: int) -> Plan:
    """Two low-bit layers, alike but for what follows them."""
    rng = np.random.default_rng(seed)
    builder = PlanBuilder(rng, (32, 8, 8))
    codes = builder.quantized_input(random_quantizer(rng, 2))
    made = random_quantizer(rng, 2)
    (codes,) = builder.contract(codes, random_low_bit(rng, (32, 32, 3, 3), 2), AROUND, (), ((made, False, ()),))
    return builder.finish(*builder.contract(codes, random_low_bit(rng, (32, 32, 3, 3), 2), AROUND))


def tuned(instance: dict[str, Any], key: Key, **changes: Any) -> Tuned:
    """A record that says 3x1 where the model would say something else."""
    entry = Tuned(
        key=key,
        instance=instance,
        best=Timed(kernel="popcount", tile={"pixels": 3, "blocks": 1}, us=4.0),
        untuned=Timed(kernel="popcount", tile={}, us=6.0),
        gain=1.5,
        trials=20,
        failed=1,
        finished="2026-11-21T16:00:00+00:00",
    )
    return replace(entry, **changes)


def test_an_instance_is_what_the_time_depends_on() -> None:
    first, second = contraction_instances(network(0)).values()
    assert digest(first) != digest(second)
    assert {**first, "outputs": second["outputs"]} == second
    assert [digest(entry) for entry in contraction_instances(network(1)).values()] == [digest(first), digest(second)]
    assert in_words(first) == "32x8x8 -> 32x8x8, 3x3, W2A2"
    assert json.loads(canonical(first)) == first


@pytest.mark.parametrize("name", [name for name in names() if not find(name).variants])
def test_a_key_keeps_the_features_that_targets_name(name: str) -> None:
    target = find(name)
    key = make_key(target, "some model", [*target.features, "unheard-of"])
    assert set(key.features) >= cpu.normalise(target.features, target.machine) and "unheard-of" not in key.features


def test_keys_differ_in_words() -> None:
    key = make_key(HERE, "this model", HERE.features)
    assert key.difference(key) is None
    for change, words in (
        ({"target": "x86-amx"}, f"for target x86-amx, not {HERE.name}"),
        ({"cpu": "another"}, "measured on another, not this model"),
        ({"features": key.features[1:]}, rf"measured on this model with other CPU features ({key.features[0]})"),
        ({"tvm": "0.1"}, f"made with TVM 0.1, not {key.tvm}"),
        ({"kernels": 0}, f"of version 0 of the kernels, not {key.kernels}"),
    ):
        assert replace(key, **change).difference(key) == words


def test_records_survive_their_file(tmp_path: Path) -> None:
    instances = list(contraction_instances(network(2)).values())
    key = make_key(HERE, "model", HERE.features)
    entries = [tuned(instances[0], key), tuned(instances[1], key), tuned(instances[0], replace(key, cpu="other"))]
    write_tuned(tmp_path / "tuned.json", entries)
    assert read_tuned(tmp_path) == read_tuned(tmp_path / "tuned.json") == entries


def test_the_later_of_two_records_counts() -> None:
    instance = next(iter(contraction_instances(network(3)).values()))
    key = make_key(HERE, "model", HERE.features)
    old, new = tuned(instance, key), tuned(instance, key, finished="2026-11-22T00:00:00+00:00", gain=1.2)
    other = tuned(instance, replace(key, cpu="other"))
    assert merge([[new, other], [old]]) == [new, other]
    assert merge([[old], [other, new]]) == [new, other]


DAMAGED = {
    "{": r"records '.*': found a damaged file \(.*\), expected JSON; make it anew with 'lqcompile records export'",
    "[1]": "found JSON of another program, expected a file of 'lqcompile tune' or 'lqcompile records export'",
    '{"format": "lqcompile tuned kernels", "version": 99}': "found version 99, expected 2; tune again with this lqc",
    '{"format": "lqcompile tuned kernels", "version": 2, "machines": [{"layers": [{}]}]}': (
        "found an entry without 'key', expected a whole one"
    ),
    '{"format": "lqcompile tuned kernels", "version": 2, "machines": [{"key": {"target": 1}, "layers": [{}]}]}': (
        "found no key of a machine in an entry, expected target, cpu, features, samples, tvm, kernels"
    ),
}


@pytest.mark.parametrize("text", DAMAGED)
def test_a_file_that_holds_no_records_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    path.write_text(text)
    with pytest.raises(TuningError, match=DAMAGED[text]):
        read_tuned(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        TuningError, match=r"found no such file or directory, expected a file of tuned .*; check the path"
    ):
        read_tuned(tmp_path / "nothing.json")
    with pytest.raises(TuningError, match=r"; finish 'lqcompile tune' with that folder first"):
        read_tuned(tmp_path)


def test_records_of_this_machine_apply_and_no_others() -> None:
    plan = network(4)
    (first, instance), (second, _) = contraction_instances(plan).items()
    key = key_here(HERE)
    applied = apply_records(plan, HERE, [tuned(instance, key)])
    assert list(applied.choices) == [first] and not applied.refused
    assert applied.choices[first].tile == Tile(pixels=3, blocks=1)
    assert applied.choices[first].reason == "record: 4 us, 1.50 x the cost table's popcount"
    larger = apply_records(plan, replace(HERE, samples=32), [tuned(instance, key)])
    assert larger.refused == {"measured with 1 sample at a time, not 32": [first]} and not larger.choices
    foreign = tuned(instance, replace(key, cpu="Some Other CPU", features=("avx2",)))
    applied = apply_records(plan, HERE, [foreign])
    assert not applied.choices
    assert applied.refused == {f"measured on Some Other CPU, not {key.cpu}": [first]}
    assert list(apply_records(plan, HERE, [foreign], "Some Other CPU").choices) == [first]
    assert list(apply_records(plan, HERE, [foreign, tuned(instance, key)]).choices) == [first]
    assert not apply_records(plan, find(X86[1]), [tuned(instance, key)]).refused, "of another target: not looked at"
    assert second not in applied.choices


def test_records_that_were_changed_by_hand_are_refused() -> None:
    plan = network(5)
    instance = next(iter(contraction_instances(plan).values()))
    key = key_here(HERE)
    with pytest.raises(TuningError, match=r"found kernel family 'dot8' for node 'region1', expected popcount"):
        apply_records(plan, HERE, [tuned(instance, key, best=Timed(kernel="dot8", tile={}, us=1.0))])
    with pytest.raises(
        TuningError, match=f"found a tile of pixels, rows, expected fields of a tile of target {HERE.name}"
    ):
        read_tile(Timed(kernel="popcount", tile={"pixels": 1, "rows": 2}, us=1.0), HERE)


def test_a_record_from_before_a_knob_means_what_was_built_then() -> None:
    tile = read_tile(Timed(kernel="popcount", tile={"pixels": 3, "blocks": 2}, us=1.0), HERE)
    assert tile == Tile(pixels=3, blocks=2, unroll=1, split=1, order=CHANNELS_OUTERMOST)


def test_a_record_of_the_tables_choice_says_so() -> None:
    instance = next(iter(contraction_instances(network(6)).values()))
    same = Timed(kernel="popcount", tile={"pixels": 3, "blocks": 1}, us=4.0)
    entry = tuned(instance, key_here(HERE), best=same, untuned=same, gain=1.0)
    assert make_choice(entry, HERE).reason == "record: 4 us, the cost table's; none of 20 was clearly faster"


@pytest.mark.parametrize("name", [name for name in names() if not find(name).variants])
def test_shipped_records_are_of_this_version(name: str) -> None:
    target = find(name)
    for entry in shipped_records(target):
        key = make_key(target, entry.key.cpu, entry.key.features)
        assert entry.key.difference(key) is None
        make_choice(entry, target)


@pytest.mark.skipif(not RUNNABLE, reason="this CPU runs none of the x86 targets")
def test_a_build_uses_records_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, artifact = tmp_path / "model.onnx", tmp_path / "model.tar"
    onnx.save(chain_model(np.random.default_rng(7)), model)
    plan = make_plan(load_checked(model))
    layers = contraction_instances(plan)
    key = key_here(HERE)
    write_tuned(tmp_path / "mine.json", [tuned(instance, key) for instance in layers.values()])
    write_tuned(tmp_path / "other.json", [tuned(instance, replace(key, tvm="0.1")) for instance in layers.values()])
    report = build(model, target=HERE.name, output=artifact, records=[tmp_path / "mine.json"])
    assert report.records[HERE.name] == {"used": list(layers), "refused": {}}
    tiles = {layer["name"]: layer["tile"] for layer in report.layers}
    assert all(tiles[name][:2] == [3, 1] for name in layers)
    compiled = load(artifact)
    (port,) = compiled.inputs
    x = {port.name: np.random.default_rng(7).normal(size=(1, *port.shape)).astype(np.float32)}
    tuned_outputs = compiled.run(x)
    plain = build(model, target=HERE.name, output=artifact, records=[tmp_path / "other.json"])
    for name, array in load(artifact).run(x).items():
        np.testing.assert_array_equal(array, tuned_outputs[name])
    why = f"made with TVM 0.1, not {key.tvm}"
    assert plain.records[HERE.name] == {"used": [], "refused": {why: list(layers)}}
    arguments = ["build", str(model), "-t", HERE.name, "-o", str(artifact)]
    assert main([*arguments, "--records", str(tmp_path / "mine.json"), "--records", str(tmp_path / "other.json")]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"Tuning records for {HERE.name}: used by {len(layers)} layers ({', '.join(layers)})" in told
    assert re.search(r"\w 3x1: [\d.]+, \w+: [\d.]+ ", told), told  # the usual tile has no size there
    assert main([*arguments, "--records", str(tmp_path / "other.json")]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"Tuning records for {HERE.name} left out: {why} ({', '.join(layers)})" in told


@pytest.mark.parametrize(("run", "counts_as"), [(0, 0), (1, 1), (3, 2), (7, 4), (8, 8), (30, 8)])
def test_long_runs_of_sixteen_bit_sums_are_alike(run: int, counts_as: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(run)
    builder = PlanBuilder(rng, (32, 4, 4))
    codes = builder.quantized_input(random_quantizer(rng, 2, integer=True))
    plan = builder.finish(*builder.contract(codes, random_low_bit(rng, (32, 32, 3, 3), 2, integer=True), AROUND))
    monkeypatch.setattr(instance_module, "sixteen_bit_run", lambda *_arguments: run)
    (found,) = contraction_instances(plan).values()
    assert found["weights"]["sixteen_bit_run"] == counts_as
