"""The artifact: what is written is read, and whatever does not fit is refused with a reason."""

import hashlib
import io
import json
import re
import tarfile
import tracemalloc

import numpy as np
import pytest

from lqcompile.artifact import is_artifact, read_artifact, select_variant, write_artifact
from lqcompile.errors import ArtifactError, BuildError


def variant(name, requires):
    return {
        "name": name,
        "requires": requires,
        "library": f"lib/{name}.so",
        "params": f"params/{name}.bin",
        "arena_bytes": 4096,
        "layers": [
            {
                "name": "conv1",
                "op": "LQConv",
                "weight_bits": 2,
                "act_bits": 2,
                "kernel": "popcount",
                "reason": "only one",
            }
        ],
    }


def manifest(**changes):
    return {
        "lqcompile": "0.1.0",
        "target": "x86",
        "machine": "x86_64",
        "system": "linux",
        "onnx": {"name": "model.onnx", "bytes": 12, "sha256": "0" * 64},
        "tools": {"apache-tvm": "0.27.0.post1"},
        "inputs": [{"name": "x", "shape": [1, 28, 28], "dtype": "float32"}],
        "outputs": [{"name": "y", "shape": [10], "dtype": "float32"}],
        "variants": [variant("avx2", ["avx2"]), variant("avx512", ["avx2", "avx512_vnni"])],
        **changes,
    }


def members(seed=0):
    rng = np.random.default_rng(seed)
    names = ["params/avx512.bin", "lib/avx2.so", "lib/avx512.so", "params/avx2.bin"]
    return {name: rng.bytes(int(rng.integers(1, 3000))) for name in names}


@pytest.fixture
def artifact(tmp_path):
    path = tmp_path / "model.tar"
    write_artifact(path, manifest(), members())
    return path


def tar_of(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files:
            header = tarfile.TarInfo(name)
            header.size, header.mode = len(data), 0o644
            tar.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


def canonical(content):
    """The bytes of a manifest whose own hash is right."""
    content = {key: value for key, value in content.items() if key != "sha256"}
    text = json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"
    content["sha256"] = hashlib.sha256(text).hexdigest()
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"


@pytest.mark.parametrize("seed", range(3))
def test_what_is_written_is_read(tmp_path, seed):
    path, content = tmp_path / "model.tar", members(seed)
    write_artifact(path, manifest(), content)
    artifact = read_artifact(path)
    assert {name: artifact.read(name) for name in artifact.members} == content
    assert artifact.manifest["format"] == 1
    assert artifact.manifest["variants"] == manifest()["variants"]
    assert artifact.manifest["members"]["lib/avx2.so"] == {
        "bytes": len(content["lib/avx2.so"]),
        "sha256": hashlib.sha256(content["lib/avx2.so"]).hexdigest(),
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.tar"]


def test_members_are_read_when_they_are_asked_for(tmp_path):
    """Libraries for other processors take no memory."""
    size = 16 << 20
    path, content = tmp_path / "model.tar", {**members(), "lib/avx2.so": bytes(size)}
    write_artifact(path, manifest(), content)
    tracemalloc.start()
    artifact = read_artifact(path)
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held < size / 8
    assert artifact.read("lib/avx2.so") == content["lib/avx2.so"]


def test_a_file_that_changes_after_its_check_is_refused(artifact):
    whole = read_artifact(artifact)
    data = bytearray(artifact.read_bytes())
    data[data.index(members()["lib/avx2.so"])] ^= 1
    artifact.write_bytes(data)
    subject = rf"^artifact '{re.escape(str(artifact))}': found "
    with pytest.raises(ArtifactError, match=subject + "member 'lib/avx2.so' altered, expected its SHA-256 to match"):
        whole.read("lib/avx2.so")
    artifact.unlink()
    with pytest.raises(ArtifactError, match=subject + ".*, expected a readable file; check the path$"):
        whole.read("lib/avx2.so")


def test_bytes_are_deterministic(tmp_path):
    content = members()
    write_artifact(tmp_path / "a.tar", manifest(), content)
    write_artifact(tmp_path / "b.tar", dict(reversed(manifest().items())), dict(reversed(content.items())))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_tar_reads_it_with_the_manifest_first(artifact):
    with tarfile.open(artifact) as tar:
        assert tar.getnames() == ["manifest.json", *sorted(members())]


def test_tells_an_artifact_from_other_files(artifact, tmp_path):
    other = tmp_path / "model.onnx"
    other.write_bytes(b"\x08\x0a")
    assert is_artifact(artifact)
    assert not is_artifact(other)
    assert not is_artifact(tmp_path / "missing")


def test_missing_file(tmp_path):
    with pytest.raises(
        ArtifactError, match=r"found no such file or directory, expected a readable file; check the path"
    ):
        read_artifact(tmp_path / "none.tar")


@pytest.mark.parametrize("content", [b"", b"\x08\x0a\x12\x00", b"PK\x03\x04", b"manifest.json"])
def test_not_an_artifact(tmp_path, content):
    path = tmp_path / "model.tar"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"found another kind of file, expected an artifact; build it again"):
        read_artifact(path)


@pytest.mark.parametrize("keep", [20, 512, 700, 1600, 0.5, 0.9, -1])
def test_truncated(artifact, keep):
    data = artifact.read_bytes()
    artifact.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(ArtifactError, match=r"found (a truncated|an altered manifest)"):
        read_artifact(artifact)


def test_something_added(artifact):
    artifact.write_bytes(artifact.read_bytes() + b"\0")
    with pytest.raises(ArtifactError, match=r"found a file with something added of \d+ bytes, expected \d+"):
        read_artifact(artifact)


@pytest.mark.parametrize("seed", range(20))
def test_any_altered_byte_of_content_is_refused(artifact, seed):
    data = bytearray(artifact.read_bytes())
    with tarfile.open(artifact) as tar:
        spans = [(entry.offset_data, entry.size) for entry in tar.getmembers()]
    rng = np.random.default_rng(seed)
    offset, size = spans[seed % len(spans)]
    data[offset + int(rng.integers(size))] ^= 1 << int(rng.integers(8))
    artifact.write_bytes(data)
    with pytest.raises(ArtifactError):
        read_artifact(artifact)


def test_altered_member_is_named(artifact):
    data = artifact.read_bytes()
    wanted = members()["lib/avx512.so"]
    start = data.index(wanted)
    artifact.write_bytes(data[:start] + bytes([wanted[0] ^ 1]) + data[start + 1 :])
    with pytest.raises(ArtifactError, match=r"found member 'lib/avx512.so' altered, expected its SHA-256 to match"):
        read_artifact(artifact)


def test_altered_manifest(artifact):
    artifact.write_bytes(artifact.read_bytes().replace(b'"arena_bytes": 4096', b'"arena_bytes": 4097', 1))
    with pytest.raises(ArtifactError, match=r"found an altered manifest, expected the one that was written"):
        read_artifact(artifact)


def test_manifest_that_is_not_json(tmp_path):
    path = tmp_path / "model.tar"
    path.write_bytes(tar_of([("manifest.json", b"{")]))
    with pytest.raises(ArtifactError, match=r"found an altered manifest \(.+\), expected JSON"):
        read_artifact(path)


def test_newer_and_older_format(tmp_path):
    path = tmp_path / "model.tar"
    path.write_bytes(tar_of([("manifest.json", b'{"format": 2}')]))
    with pytest.raises(ArtifactError, match=r"found format 2, expected 1; upgrade lqcompile"):
        read_artifact(path)
    path.write_bytes(tar_of([("manifest.json", b'{"format": 0}')]))
    with pytest.raises(ArtifactError, match=r"found format 0, expected 1; build the artifact again"):
        read_artifact(path)


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"format": "one"}'])
def test_manifest_without_format(tmp_path, content):
    path = tmp_path / "model.tar"
    path.write_bytes(tar_of([("manifest.json", content)]))
    with pytest.raises(ArtifactError, match=r"found a manifest without a format number, expected format 1"):
        read_artifact(path)


def test_missing_member(tmp_path):
    whole = tmp_path / "model.tar"
    write_artifact(whole, manifest(), members())
    content = dict(read_artifact(whole).members)
    text = canonical(read_artifact(whole).manifest)
    last = content.popitem()[0]
    path = tmp_path / "renamed.tar"
    path.write_bytes(tar_of([("manifest.json", text), *content.items(), ("other", members()[last])]))
    with pytest.raises(ArtifactError, match=rf"found no member '{last}', expected it after the manifest"):
        read_artifact(path)


@pytest.mark.parametrize(
    "name", ["../evil.so", "/etc/evil", "lib/../../evil", "lib/.hidden", "lib//x", "a b", "x" * 101]
)
def test_unsafe_member_names(tmp_path, name):
    with pytest.raises(BuildError, match=r"found member name '.+', expected a relative path of letters"):
        write_artifact(tmp_path / "model.tar", manifest(), {**members(), name: b"x"})
    assert not list(tmp_path.iterdir())


def test_unsafe_member_in_a_file_is_refused(tmp_path):
    content = manifest(format=1, members={"../evil": {"bytes": 1, "sha256": "0"}}, variants=[variant("a", [])])
    content["variants"][0].update(library="../evil", params="../evil")
    path = tmp_path / "model.tar"
    path.write_bytes(tar_of([("manifest.json", canonical(content)), ("../evil", b"x")]))
    with pytest.raises(ArtifactError, match=r"member '../evil' is not a plain file with a safe name"):
        read_artifact(path)


def test_link_in_a_file_is_refused(artifact):
    data = bytearray(artifact.read_bytes())
    with tarfile.open(artifact) as tar:
        entry = tar.getmembers()[1]
    entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
    data[entry.offset : entry.offset + 512] = entry.tobuf(format=tarfile.USTAR_FORMAT)
    artifact.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"member 'lib/avx2.so' is not a plain file"):
        read_artifact(artifact)


def test_read_of_unknown_member(artifact):
    with pytest.raises(
        ArtifactError, match=r"found no member 'lib/sse.so', expected one of lib/avx2.so, lib/avx512.so"
    ):
        read_artifact(artifact).read("lib/sse.so")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": 3}, r"manifest.target is 3, expected text"),
        ({"variants": {}}, r"manifest.variants is \{\}, expected a list"),
        ({"variants": []}, r"found no variants, expected at least one"),
        (
            {"inputs": [{"name": "x", "shape": [1, "2"], "dtype": "float32"}]},
            r"inputs\[0\].shape\[1\] is '2', expected a whole",
        ),
        (
            {"inputs": [{"name": "x", "shape": [True], "dtype": "float32"}]},
            r"shape\[0\] is True, expected a whole number",
        ),
        ({"outputs": [{"name": "y"}]}, r"manifest.outputs\[0\] lacks 'shape'"),
        ({"onnx": "model.onnx"}, r"manifest.onnx is 'model.onnx', expected an object"),
        ({"variants": [variant("sse", [])]}, r"found no member 'lib/sse.so', expected it as library of variant 'sse'"),
    ],
)
def test_manifest_is_checked_before_writing(tmp_path, change, message):
    with pytest.raises(ArtifactError, match=message):
        write_artifact(tmp_path / "model.tar", manifest(**change), members())
    assert not list(tmp_path.iterdir())


def test_most_demanding_variant_that_fits():
    both = manifest()
    assert select_variant(both, ["avx2", "fma"], machine="x86_64", system="linux")["name"] == "avx2"
    assert select_variant(both, ["avx2", "avx512vnni"], machine="x86_64", system="linux")["name"] == "avx512"
    assert select_variant(both, ["avx2", "avx512_vnni"], machine="x86_64", system="linux")["name"] == "avx512"


def test_cpu_without_the_features():
    message = (
        r"artifact for target 'x86': found a CPU without avx2, expected them for variant 'avx2'; build the model again"
    )
    with pytest.raises(ArtifactError, match=message):
        select_variant(manifest(), ["sse2"], machine="x86_64", system="linux")


@pytest.mark.parametrize(("machine", "system"), [("aarch64", "linux"), ("x86_64", "darwin")])
def test_other_architecture_or_system(machine, system):
    message = rf"found code for x86_64 on linux, expected {machine} on {system}; build the model again with a --target"
    with pytest.raises(ArtifactError, match=message):
        select_variant(manifest(), ["avx2"], machine=machine, system=system)
