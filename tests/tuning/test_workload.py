"""Workloads of MetaSchedule: candidates there and back, and what tells workloads apart."""

from __future__ import annotations

import importlib
from dataclasses import replace

import pytest
import tvm
from lqcompile.schedules.problem import Tile
from lqcompile.schedules.space import Space, register_tiles
from tunings import KEY, network, points, tasks
from tvm.s_tir import Schedule

from lqcompile.errors import TuningError
from lqcompile.lowering.choose import Candidate
from lqcompile.records.instance import digest
from lqcompile.target import Target, find, names, with_samples
from lqcompile.tuning.features import Features
from lqcompile.tuning.strategy import Redecide
from lqcompile.tuning.task import make_tasks
from lqcompile.tuning.workload import (
    design_spaces,
    identity,
    make_workload,
    place,
    read_candidate,
    read_workload,
    tvm_target,
)


def test_every_candidate_survives_its_schedule() -> None:
    for task in tasks():
        module = make_workload(task.instance, task.key, task.spaces)
        candidates = points(task)
        assert len(set(candidates)) == len(candidates) == sum(space.size for space in task.spaces.values())
        for candidate in candidates:
            schedule = place(module, task.spaces, candidate)
            assert schedule is not None
            assert read_candidate(schedule.mod, task.spaces) == candidate


def test_the_guesses_begin_with_the_cost_tables_choice_and_are_offered() -> None:
    for task in tasks():
        assert task.guesses[0] == Candidate(family=task.layer.family, tile=task.spaces[task.layer.family].tiles[0])
        assert {guess.family for guess in task.guesses} == set(task.spaces)
        module = make_workload(task.instance, task.key, task.spaces)
        assert all(place(module, task.spaces, guess) is not None for guess in task.guesses)


def test_a_gpu_is_no_cpu_of_llvm_with_one_sample_either() -> None:
    for samples in (1, 32):
        target = tvm_target(with_samples(find("cuda-h200"), samples))
        assert (target.kind.name, target.attrs.get("arch")) == ("llvm", None)


def test_what_is_not_offered_has_no_schedule() -> None:
    task = tasks()[0]
    module = make_workload(task.instance, task.key, task.spaces)
    family = task.layer.family
    for tile in (None, Tile(pixels=99, blocks=1)):
        assert place(module, task.spaces, Candidate(family=family, tile=tile)) is None
    assert place(module, task.spaces, Candidate(family="unheard-of", tile=task.spaces[family].tiles[0])) is None


def test_knobs_are_decisions_of_their_own() -> None:
    tiles = (Tile(pixels=2, blocks=1), Tile(pixels=1, blocks=1))
    space = Space(tiles=tiles, knobs={"blocks": (1, 2, 4)})
    assert space.size == 6
    assert [space.place(Tile(pixels=1, blocks=count)) for count in (2, 3)] == [(1, {"blocks": 2}), None]
    task = tasks()[0]
    module = make_workload(task.instance, task.key, {"lut": space})
    for tile in (space.choose(index, {"blocks": count}) for index in range(2) for count in (1, 2, 4)):
        schedule = place(module, {"lut": space}, Candidate(family="lut", tile=tile))
        assert schedule is not None
        assert read_candidate(schedule.mod, {"lut": space}).tile == tile


def test_register_tiles_hold_a_sensible_number_of_accumulators() -> None:
    best = Tile(pixels=7, blocks=2)
    tiles = register_tiles(best, (2, 1), columns=7, accumulators=12.0)
    assert tiles[0] == best
    assert set(tiles) - {best} == {Tile(pixels=p, blocks=2) for p in range(1, 8)} - {best} | {
        Tile(pixels=p, blocks=1) for p in range(3, 8)
    }


def test_workloads_differ_by_contraction_machine_and_space() -> None:
    first, second = tasks()[:2]
    module = make_workload(first.instance, KEY, first.spaces)
    assert identity(module) == identity(make_workload(dict(first.instance), KEY, dict(first.spaces)))
    others = [
        make_workload(second.instance, KEY, first.spaces),
        make_workload(first.instance, replace(KEY, cpu="another"), first.spaces),
        make_workload(first.instance, replace(KEY, kernels=0), first.spaces),
        make_workload(first.instance, KEY, {"lut": first.spaces["lut"]}),
    ]
    assert len({identity(module), *map(identity, others)}) == 5
    assert read_workload(module, "here") == (first.instance, KEY)


def test_workloads_of_other_programs_are_refused() -> None:
    task = tasks()[0]
    function = make_workload(task.instance, KEY, task.spaces)["main"].without_attr("lqcompile.key")
    with pytest.raises(TuningError, match=r"^records 'there': found a workload of another program, expected those of"):
        read_workload(tvm.IRModule({"main": function}), "there")


def test_the_layers_of_one_shape_are_one_task() -> None:
    names = [task.layers for task in tasks()]
    assert names == [("region1", "region2"), ("region3",), ("region4",)]
    assert [digest(task.instance) for task in tasks()] == [task.name for task in tasks()]


def test_features_tell_candidates_apart() -> None:
    features = Features(tasks())
    task = tasks()[0]
    rows = {tuple(features.row(task, candidate)) for candidate in points(task)}
    assert len(rows) == sum(space.size for space in task.spaces.values())


def test_mutation_changes_one_decision_and_stays_inside() -> None:
    task = tasks()[0]
    module = make_workload(task.instance, task.key, task.spaces)
    schedules = design_spaces(task.spaces)(Schedule(module))
    assert [str(read_candidate(item.mod, task.spaces).family) for item in schedules] == list(task.spaces)
    mutator = Redecide(3)
    for schedule in schedules:
        found = set()
        for _ in range(20):
            trace = mutator.apply(schedule.trace)
            if trace is not None:
                other = Schedule(module)
                trace.apply_to_schedule(other, remove_postproc=False)
                found.add(read_candidate(other.mod, task.spaces))
        before = read_candidate(schedule.mod, task.spaces)
        assert before not in found
        assert {candidate.family for candidate in found} <= {before.family}
        assert len(found) > (task.spaces[before.family].size > 1)


def test_a_target_without_design_spaces_is_refused() -> None:
    found = [target for target in map(find, names()) if not target.variants and not hasattr(schedules(target), "space")]
    for target in found:
        message = f"^target '{target.name}': found schedules without design spaces, expected some to search; build"
        with pytest.raises(TuningError, match=message):
            make_tasks(network(), target, KEY, lambda _doing, _share: None)
    assert all(target.machine not in ("x86_64", "aarch64") or target.schedule.startswith("cuda") for target in found)


def schedules(target: Target) -> object:
    return importlib.import_module(f"lqcompile.schedules.{target.schedule}")
