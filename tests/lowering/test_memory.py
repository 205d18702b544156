"""The arena: tensors that live at the same time never share a byte."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from lqcompile.lowering.memory import ALIGNMENT, Lifetime, plan_arena

SPANS = st.lists(
    st.tuples(st.integers(0, 500), st.integers(0, 12), st.integers(0, 5)),
    max_size=25,
)


@given(SPANS)
def test_live_tensors_do_not_overlap(spans: list[tuple[int, int, int]]) -> None:
    items = [
        Lifetime(key=str(index), size_bytes=size, first=first, last=first + length)
        for index, (size, first, length) in enumerate(spans)
    ]
    offsets, total = plan_arena(items)
    assert offsets.keys() == {item.key for item in items}
    for step in range(20):
        live = sorted((offsets[i.key], i.size_bytes) for i in items if i.size_bytes and i.first <= step <= i.last)
        for (start, size), (following, _) in itertools.pairwise(live):
            assert start + size <= following
    assert all(offset % ALIGNMENT == 0 for offset in offsets.values())
    assert all(offsets[item.key] + item.size_bytes <= total for item in items)


def test_memory_is_used_again() -> None:
    chain = [Lifetime(key=str(index), size_bytes=1000, first=index, last=index + 1) for index in range(10)]
    assert plan_arena(chain)[1] == 2 * 1024


def test_nothing_needs_nothing() -> None:
    assert plan_arena([]) == ({}, 0)
