"""Between logical arrays and what kernels hold in memory, from the manifest alone (NumPy, no compiler).

Logical arrays are float32 or codes (level index uint8, or 8-bit codes), [C, H, W] or [C]. A manifest entry describes
the physical tensor: its format and what is stored for each level.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Entry = dict[str, Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "bits": np.dtype(np.uint8),
    "u8": np.dtype(np.uint8),
    "i16": np.dtype(np.int16),
    "f32": np.dtype(np.float32),
}
"""Element type of each kind of format."""


def size_bytes(entry: Entry) -> int:
    """Bytes of the tensor in the arena."""
    height, width = _padded(entry)
    pixel = entry["planes"] * entry["channels"] // 8 if entry["kind"] == "bits" else entry["channels"]
    return int(height * width * pixel * DTYPES[entry["kind"]].itemsize)


def encode(entry: Entry, array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The bytes that kernels expect for a logical array of one sample."""
    channels, height, width = (*entry["shape"], 1, 1)[:3]
    image = np.moveaxis(array.reshape(channels, height, width), 0, -1)
    kind = entry["kind"]
    if kind == "bits":
        codes = np.asarray(entry["stored"], np.uint8)[image]
        planes = [(codes >> plane) & 1 for plane in range(entry["planes"] - entry["ones_plane"])]
        if entry["ones_plane"]:
            planes.append(np.ones_like(codes))
        bits = _pad(np.stack(planes, axis=2), entry, 0)
        return np.packbits(bits, axis=-1, bitorder="little").ravel()
    values = _pad(_stored(entry, image).astype(DTYPES[kind]), entry, entry["pad"])
    return np.ascontiguousarray(values).view(np.uint8).ravel()


def decode(entry: Entry, data: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """The logical array of one sample that `data` holds."""
    channels, height, width = (*entry["shape"], 1, 1)[:3]
    top, left = entry["halo"][:2]
    rows, columns = slice(top, top + height), slice(left, left + width)
    kind = entry["kind"]
    if kind == "bits":
        words = data.reshape(*_padded(entry), entry["planes"], -1)[rows, columns]
        bits = np.unpackbits(words, axis=-1, count=channels, bitorder="little")
        planes = entry["planes"] - entry["ones_plane"]
        codes = (bits[:, :, :planes].astype(np.int64) << np.arange(planes)[:, None]).sum(axis=2)
        image = _index(entry["stored"], codes)
    else:
        stored = data.view(DTYPES[kind]).reshape(*_padded(entry), -1)[rows, columns, :channels]
        image = _logical(entry, stored)
    return np.ascontiguousarray(np.moveaxis(image, -1, 0)).reshape(entry["shape"])


def agree(entry: Entry, left: npt.NDArray[Any], right: npt.NDArray[Any]) -> bool:
    """Whether two logical arrays are the same to this format, which may store several levels alike."""
    if "stored" in entry and not entry["decoded"]:
        table = np.asarray(entry["stored"])
        left, right = table[left], table[right]
    return np.array_equal(left, right)


def _padded(entry: Entry) -> tuple[int, int]:
    _, height, width = (*entry["shape"], 1, 1)[:3]
    top, left, bottom, right = entry["halo"]
    return height + top + bottom, width + left + right


def _pad(image: npt.NDArray[Any], entry: Entry, value: float) -> npt.NDArray[Any]:
    """Adds the halo and the channel tail."""
    top, left, bottom, right = entry["halo"]
    tail = [(0, 0)] * (image.ndim - 3) + [(0, entry["channels"] - image.shape[-1])]
    filled = np.pad(image, [(0, 0), (0, 0), *tail])
    widths = [(top, bottom), (left, right)] + [(0, 0)] * (image.ndim - 2)
    return np.pad(filled, widths, constant_values=value)


def _stored(entry: Entry, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if "stored" in entry and not entry["decoded"]:
        levels: npt.NDArray[Any] = np.asarray(entry["stored"])[image]
        return levels
    if "code" in entry and not entry["decoded"]:
        code = entry["code"]
        if entry["kind"] != "f32":
            biased: npt.NDArray[np.int64] = image.astype(np.int64) + code["bias"]
            return biased
        real = (image.astype(np.int64) - code["zero_point"]).astype(np.float32) * np.float32(code["scale"])
        return np.asarray(real)
    return image


def _logical(entry: Entry, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if entry["decoded"] or ("stored" not in entry and "code" not in entry):
        return stored
    if "stored" in entry:
        table = np.asarray(entry["stored"], np.float32)
        return _index(table.tolist(), stored.astype(np.float32))
    code = entry["code"]
    if entry["kind"] != "f32":
        codes: npt.NDArray[Any] = (stored.astype(np.int64) - code["bias"]).astype(code["dtype"])
        return codes
    steps = np.rint(stored / np.float32(code["scale"])).astype(np.int64)
    result: npt.NDArray[Any] = (steps + code["zero_point"]).astype(code["dtype"])
    return result


def _index(stored: list[float], values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The level of each stored value; where levels tie, the last one, as a quantizer gives it."""
    result = np.zeros(values.shape, np.uint8)
    for level, entry in enumerate(stored):
        result[values == entry] = level
    return result
