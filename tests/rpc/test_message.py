"""Messages between host and board: what goes in comes out."""

import json

import numpy as np
import pytest

from lqcompile.rpc.message import pack, unpack

DTYPES = ("float32", "float64", "uint8", "int8", "int32", "int64", "bool", ">f4")


@pytest.mark.parametrize("seed", range(5))
def test_what_goes_in_comes_out(seed):
    rng = np.random.default_rng(seed)
    arrays = {}
    for index, dtype in enumerate(DTYPES):
        shape = rng.integers(0, 5, rng.integers(0, 5))
        arrays[f"/a:{index} \n"] = (rng.standard_normal(shape) * 50).astype(dtype)
    arrays["transposed"] = rng.integers(0, 255, (3, 5, 2)).astype(np.uint8).transpose(2, 0, 1)[:, ::-1]
    values = {"text": "new\nline, µ", "number": rng.random(), "nothing": None, "list": [1, {"x": True}]}
    found_values, found = unpack(pack(values, arrays))
    assert found_values == values
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype.newbyteorder("<"))


def test_arrays_can_be_handed_to_kernels():
    _, arrays = unpack(pack({"x": 1}, {"a": np.zeros(3, np.uint8), "b": np.zeros(5, np.float32)}))
    for array in arrays.values():
        assert array.flags.writeable and array.flags.aligned and array.flags.c_contiguous


def test_floats_keep_their_bits():
    bits = np.array([0x7FC00001, 0xFF800000, 0x80000000, 1], np.uint32)
    _, arrays = unpack(pack({}, {"a": bits.view(np.float32)}))
    np.testing.assert_array_equal(arrays["a"].view(np.uint32), bits)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_message_of_another_length(change):
    message = pack({}, {"a": np.zeros(4, np.uint8)})
    with pytest.raises(ValueError, match=r"buffer is smaller|found 5 bytes of arrays, expected 4"):
        unpack(message[:change] if change < 0 else message + b"x")


def test_the_head_is_one_line_of_json():
    head, _, rest = pack({"a": "x\ny"}, {"b": np.arange(3, dtype=np.int16)}).partition(b"\n")
    assert json.loads(head) == {"values": {"a": "x\ny"}, "arrays": [["b", "<i2", [3]]]}
    assert rest == b"\0\0\1\0\2\0"
