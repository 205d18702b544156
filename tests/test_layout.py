"""Logical arrays to what kernels hold and back, for every format."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lqcompile.schedules.formats import Kind
from plans import random_quantizer, random_uniform

from lqcompile import layout
from lqcompile.graph.plan import AnyQuantizer, Value
from lqcompile.lowering.outputs import describe, make_format
from lqcompile.lowering.program import Tensor

HALOS = [(0, 0, 0, 0), (1, 0, 2, 3)]

SHAPES = [(1, 1, 1), (3, 4, 5), (33, 3, 2), (70, 2, 3), (37,)]


def entry_of(
    shape: tuple[int, ...],
    kind: Kind,
    halo: tuple[int, int, int, int],
    quantizer: AnyQuantizer | None,
    *,
    decoded: bool = False,
) -> tuple[layout.Entry, Tensor]:
    value = Value(name="v", shape=shape, quantizer=quantizer, decoded=decoded)
    form = make_format(value, kind, halo)
    tensor = Tensor(key="k", dtype=form.dtype, size=form.size, value="v", form=form)
    return describe(tensor, value, 0), tensor


def check_round_trip(entry: layout.Entry, tensor: Tensor, array: np.ndarray) -> np.ndarray:
    """Encodes, decodes; returns the bytes."""
    data = layout.encode(entry, array)
    assert data.dtype == np.uint8 and data.ndim == 1
    assert len(data) == layout.size_bytes(entry) == tensor.form.nbytes
    back = layout.decode(entry, data)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    return data


@pytest.mark.parametrize("halo", HALOS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("kind", ["bits", "f32"])
def test_levels(kind: Kind, bits: int, shape: tuple[int, ...], halo: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng([bits, *shape])
    entry, tensor = entry_of(shape, kind, halo, random_quantizer(rng, bits, offset=True))
    check_round_trip(entry, tensor, rng.integers(0, 1 << bits, shape).astype(np.uint8))


@pytest.mark.parametrize("halo", HALOS)
@pytest.mark.parametrize("shape", SHAPES)
def test_integer_levels(shape: tuple[int, ...], halo: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(shape)
    quantizer = random_quantizer(rng, 2, integer=True)
    quantizer = replace(quantizer, basis=np.float32([3, 11]), codes=np.uint8([0, 1, 2, 3]))
    entry, tensor = entry_of(shape, "u8", halo, quantizer)
    assert entry["stored"] == [0, 3, 11, 14]
    check_round_trip(entry, tensor, rng.integers(0, 4, shape).astype(np.uint8))


@pytest.mark.parametrize("halo", HALOS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["u8", "f32"])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_8_bit_codes(dtype: str, kind: Kind, shape: tuple[int, ...], halo: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(shape)
    quantizer = random_uniform(rng, dtype)
    entry, tensor = entry_of(shape, kind, halo, quantizer)
    limits = np.iinfo(dtype)
    codes = rng.integers(limits.min, limits.max + 1, shape).astype(dtype)
    data = check_round_trip(entry, tensor, codes)
    if kind == "u8" and any(halo):
        # The halo stands for 0: the code of the zero point, biased where codes are signed.
        assert data[0] == quantizer.zero_point + (128 if dtype == "int8" else 0)


@pytest.mark.parametrize("halo", HALOS)
@pytest.mark.parametrize("shape", SHAPES)
def test_floats(shape: tuple[int, ...], halo: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(shape)
    values = rng.normal(size=shape).astype(np.float32)
    check_round_trip(*entry_of(shape, "f32", halo, None), values)
    quantizer = random_quantizer(rng, 2)
    levels = quantizer.levels[rng.integers(0, 4, shape)]
    check_round_trip(*entry_of(shape, "f32", halo, quantizer, decoded=True), levels)


def test_bit_planes_lie_as_kernels_read_them() -> None:
    rng = np.random.default_rng(5)
    quantizer = random_quantizer(rng, 2, offset=True)
    levels = rng.integers(0, 4, (33, 2, 2)).astype(np.uint8)
    entry, _tensor = entry_of((33, 2, 2), "bits", (1, 0, 0, 1), quantizer)
    words = layout.encode(entry, levels).view(np.uint32).reshape(3, 3, 3, 2)
    for c, y, x in np.ndindex(33, 2, 2):
        for plane in range(2):
            bit = words[y + 1, x, plane, c // 32] >> (c % 32) & 1
            assert bit == quantizer.codes[levels[c, y, x]] >> plane & 1
    # The plane of ones marks the image, and the halo and the tail of the channels hold no bits.
    assert (words[1:, :2, 2] == [0xFFFFFFFF, 1]).all()
    assert not words[0].any() and not words[:, 2].any()
    assert not (words[..., 1] >> np.uint32(1)).any()


def test_levels_that_tie_agree() -> None:
    rng = np.random.default_rng(6)
    quantizer = replace(random_quantizer(rng, 2, integer=True), basis=np.float32([5, 5]), codes=np.uint8([0, 1, 2, 3]))
    entry, _ = entry_of((4, 1, 1), "u8", (0, 0, 0, 0), quantizer)
    levels = np.uint8([0, 1, 2, 3]).reshape(4, 1, 1)
    back = layout.decode(entry, layout.encode(entry, levels))
    assert back.ravel().tolist() == [0, 2, 2, 3]
    assert layout.agree(entry, back, levels)
    assert not layout.agree(entry, np.uint8([0, 1, 2, 0]).reshape(4, 1, 1), levels)
    planes, _ = entry_of((4, 1, 1), "bits", (0, 0, 0, 0), quantizer)
    assert not layout.agree(planes, back, levels)


@pytest.mark.parametrize("halo", HALOS)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_codes_less_their_zero_point(dtype: str, halo: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(len(dtype))
    quantizer = random_uniform(rng, dtype)
    entry, tensor = entry_of((3, 4, 5), "i16", halo, quantizer)
    limits = np.iinfo(dtype)
    codes = rng.integers(limits.min, limits.max + 1, (3, 4, 5)).astype(dtype)
    data = (
        check_round_trip(entry, tensor, codes).view(np.int16).reshape(4 + halo[0] + halo[2], 5 + halo[1] + halo[3], -1)
    )
    wanted = codes.astype(np.int16) - quantizer.zero_point
    np.testing.assert_array_equal(data[halo[0], halo[1], :3], wanted[:, 0, 0])
    assert not data[: halo[0]].any()
