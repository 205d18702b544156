"""Saved reports are read, and other files are refused with one line each."""

import copy
import json
import re

import pytest
from profiles import BENCH, VERIFICATION, profile

from lqcompile.errors import InputError
from lqcompile.profiling.profile import KEY
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
