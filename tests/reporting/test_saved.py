"""Saved reports are read, and other files are refused with one line each."""

import contextlib
import copy
import functools
import json
import re
from datetime import UTC, datetime

import numpy as np
import pytest
from profiles import BENCH, VERIFICATION, profile

from lqcompile.errors import InputError, TargetError
from lqcompile.profiling.profile import KEY
from lqcompile.reporting import page, roofline
from lqcompile.reporting.saved import read_bench, read_profile, read_verification

READERS = [
    (read_profile, profile(), "profile"),
    (read_verification, VERIFICATION, "verification"),
    (read_bench, BENCH, "bench"),
]


@pytest.mark.parametrize(("read", "content", "what"), READERS, ids=["profile", "verification", "bench"])
class TestEveryKind:
    def test_what_was_saved_is_read(self, read, content, what, tmp_path):
        path = tmp_path / "saved.json"
        path.write_text(json.dumps(content))
        assert read(path) == content

    @pytest.mark.parametrize(
        ("data", "found"),
        [
            (b"", "found no JSON"),
            (b'{"a": ', "found no JSON"),
            (b"\x93\xff\x00", "found no JSON"),
            (b"[1, 2]", "found no JSON object"),
        ],
        ids=["empty", "truncated", "binary", "list"],
    )
    def test_no_json(self, read, content, what, tmp_path, data, found):
        path = tmp_path / "saved.json"
        path.write_bytes(data)
        with pytest.raises(
            InputError, match=rf"^{what} '{re.escape(str(path))}': {found}.*, expected a saved report; "
        ):
            read(path)

    def test_no_file(self, read, content, what, tmp_path):
        with pytest.raises(InputError, match=rf"^{what} '.+': found no such file or directory, expected a readable"):
            read(tmp_path / "none.json")

    def test_every_key_is_looked_for(self, read, content, what, tmp_path):
        path = tmp_path / "saved.json"
        for key in content.keys() - {"accuracy", KEY}:
            wrong = 7 if isinstance(content[key], str) else "damaged"
            path.write_text(json.dumps(content | {key: wrong}))
            with pytest.raises(InputError, match=rf"^{what} '.+': (profile|report)\.{key} is {wrong!r}, expected "):
                read(path)


def save(tmp_path, content):
    path = tmp_path / "saved.json"
    path.write_text(json.dumps(content))
    return path


def test_other_json_is_no_profile(tmp_path):
    with pytest.raises(InputError, match=r"found JSON without the key 'lqcompile_profile', expected a saved profile"):
        read_profile(save(tmp_path, BENCH))


def test_another_format_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"found format 99, expected 1; profile it again with this version"):
        read_profile(save(tmp_path, profile() | {KEY: 99}))


def test_a_damaged_layer_is_named(tmp_path):
    damaged = profile()
    del damaged["layers"][1]["work"]["macs"]
    with pytest.raises(InputError, match=r"layers\[1\]\.work lacks 'macs'; give an artifact, or what"):
        read_profile(save(tmp_path, damaged))
    damaged = profile()
    damaged["layers"][2]["time"]["median_us"] = None
    with pytest.raises(InputError, match=r"profile\.layers\[2\]\.time\.median_us is None, expected a number"):
        read_profile(save(tmp_path, damaged))


def test_a_damaged_peer_is_named(tmp_path):
    damaged = copy.deepcopy(BENCH)
    damaged["against"]["onnxruntime-fp32"]["ratio"] = "4"
    with pytest.raises(InputError, match=r"against\['onnxruntime-fp32'\]\.ratio is '4', expected a number"):
        read_bench(save(tmp_path, damaged))


def places(value, where=()):
    """Every place in JSON, as keys and indices."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*where, key)
        yield from places(inner, (*where, key))


DAMAGES = ("delete", None, [], {}, "damaged", -1, 0)


@pytest.mark.parametrize("seed", range(2))
def test_whatever_is_damaged_is_named_or_does_not_matter(tmp_path, monkeypatch, seed):
    """No file that is read leads to anything but a page, or one line."""

    def without_drawing(found):
        assert roofline.dots(found) is not None and roofline.ceilings(found) is not None
        return []

    monkeypatch.setattr(page, "_plots", without_drawing)
    whole = profile()
    rng = np.random.default_rng(seed)
    named = 0
    for where in places(whole):
        found = copy.deepcopy(whole)
        *outer, last = where
        inner = functools.reduce(lambda value, key: value[key], outer, found)
        damage = DAMAGES[rng.integers(len(DAMAGES))]
        if damage == "delete":
            del inner[last]
        else:
            inner[last] = damage
        named += 1
        with contextlib.suppress(InputError, TargetError):
            assert page.render(read_profile(save(tmp_path, found)), made=datetime(2026, 1, 1, tzinfo=UTC))
            named -= 1
    assert named > 50
