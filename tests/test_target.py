"""Targets are found by name, and every file in targets/ is one."""

import importlib
import itertools
import re

import pytest

from lqcompile.errors import TargetError
from lqcompile.lowering.choose import RATES
from lqcompile.target import expand, find, names


@pytest.mark.parametrize("name", names())
def test_every_target_is_what_its_file_says(name: str) -> None:
    target = find(name)
    assert target.name == name
    assert find(name.replace("-", "_")) is target
    assert target.description and "\n" not in target.description
    for variant in expand(target):
        assert variant.variants == () and variant.features and variant.llvm
        assert (variant.machine, variant.system) == (target.machine, target.system)
        assert variant.lanes * 32 == variant.vector_bits
        assert {"popcount", "dot8"} <= RATES[variant.name].keys()


def test_variants_stand_from_the_least_to_the_most_demanding() -> None:
    """A load takes the last one that fits: none may be asked for less than one before it."""
    features = [set(target.features) for target in expand(find("x86"))]
    assert not any(later <= earlier for earlier, later in itertools.combinations(features, 2))


def test_an_unknown_target_is_answered_with_the_known() -> None:
    expected = f"target 'vax': unknown; known targets: {', '.join(names())}"
    with pytest.raises(TargetError, match=f"^{re.escape(expected)}$"):
        find("vax")


UNKNOWN_PEAKS = {"jetson-orin": {"B1Mma", "I8Mma"}}
"""Loops that no data sheet has a peak of; profiles say so on the row."""


@pytest.mark.parametrize("name", [name for name in names() if find(name).peaks])
def test_peaks_are_given_for_the_loops_of_the_schedule(name: str) -> None:
    target = find(name)
    schedule = importlib.import_module(f"lqcompile.schedules.{target.schedule}")
    isa = schedule.machine(target)
    loops = {type(schedule.family(isa, family)).__name__ for family in (*RATES[name], "float")}
    assert loops - target.peaks.keys() == UNKNOWN_PEAKS.get(name, set())
    assert all(peak > 0 for peak in target.peaks.values())
