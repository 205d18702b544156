"""The artifact: one file that holds a compiled model.

An uncompressed tar whose first member is ``manifest.json``; the compiled libraries and packed parameters that it lists
follow. The same content gives the same bytes. Reading needs the standard library only.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from lqcompile import amx, cpu
from lqcompile.errors import ArtifactError, BuildError
from lqcompile.files import write_atomically
from lqcompile.manifest import FORMAT, Manifest, check_manifest

MANIFEST = "manifest.json"

_SAFE_NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]+(/(?!\.)[A-Za-z0-9._-]+)*")
_MAX_NAME = 100  # what a ustar header holds in one piece
_REBUILD = "build it again with 'lqcompile build'"


@dataclass(frozen=True, kw_only=True, eq=False)
class Artifact:
    """A checked artifact. What it holds is read from its file when it is asked for: most is for other processors.

    Args:
        path: the file.
        manifest: what it holds, see `lqcompile.manifest`.
        members: name to bytes.
    """

    path: Path
    manifest: Manifest
    members: Members

    def read(self, member: str) -> bytes:
        """The bytes of a member.

        Raises:
            ArtifactError: there is no such member, or the file was altered since it was checked.
        """
        self._check(member)
        return self.members[member]

    def read_into(self, member: str, memory: memoryview) -> None:
        """Puts the bytes of a member into memory of their size.

        Raises:
            ArtifactError: there is no such member, or the file was altered since it was checked.
        """
        self._check(member)
        self.members.read_into(member, memory)

    def _check(self, member: str) -> None:
        if member not in self.members:
            raise ArtifactError(
                f"artifact '{self.path}': found no member '{member}', expected one of {', '.join(self.members)}"
            )


class Members(Mapping[str, bytes]):
    """Members of a file, checked again when they are read.

    Args:
        path: of the artifact.
        digests: SHA-256 by name.
        starts: where the bytes of each start in the file, and how many there are.
    """

    def __init__(self, path: Path, digests: Mapping[str, str], starts: Mapping[str, tuple[int, int]]) -> None:
        self._path, self._digests, self._starts = path, digests, starts

    def __getitem__(self, name: str) -> bytes:
        data = bytearray(self._starts[name][1])
        self.read_into(name, memoryview(data))
        return bytes(data)

    def read_into(self, name: str, memory: memoryview) -> None:
        """Puts the bytes of a member into memory of their size."""
        subject = f"artifact '{self._path}'"
        try:
            with self._path.open("rb") as file:
                file.seek(self._starts[name][0])
                file.readinto(memory)
        except OSError as error:
            raise _unreadable(subject, error) from error
        if hashlib.sha256(memory).hexdigest() != self._digests[name]:
            raise _altered(subject, name)

    def __contains__(self, name: object) -> bool:
        # That of Mapping would read the member.
        return name in self._starts

    def __iter__(self) -> Iterator[str]:
        return iter(self._starts)

    def __len__(self) -> int:
        return len(self._starts)


def write_artifact(path: Path, manifest: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
    """Write an artifact, whole or not at all.

    Args:
        path: the file to write; an existing one is replaced.
        manifest: as `lqcompile.manifest` says; ``format``, ``members`` and ``sha256`` are filled in here.
        members: name to bytes; every ``library`` and ``params`` of the manifest's variants must be among them.

    Raises:
        BuildError: a member's name is unsafe, or the file cannot be written.
        ArtifactError: the manifest is not as it should be.
    """
    for name in members:
        if not _is_safe(name):
            raise BuildError(
                f"artifact '{path}': found member name {name!r}, expected a relative path of letters, digits, '.', '_' "
                f"and '-', at most {_MAX_NAME} characters"
            )
    digests = {name: {"bytes": len(data), "sha256": _sha256(data)} for name, data in sorted(members.items())}
    full: dict[str, Any] = {**manifest, "format": FORMAT, "members": digests}
    full.pop("sha256", None)
    full["sha256"] = _manifest_hash(full)
    check_manifest(full, str(path))
    write_atomically(path, _pack({MANIFEST: _manifest_bytes(full), **dict(sorted(members.items()))}))


def is_artifact(path: Path) -> bool:
    """Whether the file starts as an artifact does; tells it from an ONNX file."""
    try:
        with path.open("rb") as file:
            return file.read(len(MANIFEST) + 1) == MANIFEST.encode() + b"\0"
    except OSError:
        return False


def read_artifact(path: Path) -> Artifact:
    """Read an artifact and check every byte of it.

    Raises:
        ArtifactError: the file is missing, not an artifact, truncated, altered, of a newer format, or holds a member
            with an unsafe name or lacks one.
    """
    subject = f"artifact '{path}'"
    try:
        with path.open("rb") as file:
            return _read(path, file, subject)
    except OSError as error:
        raise _unreadable(subject, error) from error


def select_variant(
    manifest: Manifest,
    cpu_features: Iterable[str] | None = None,
    *,
    machine: str | None = None,
    system: str | None = None,
) -> dict[str, Any]:
    """The variant to run: the last one, hence the most demanding, whose features the CPU has.

    Args:
        manifest: of an artifact; variants stand from the least to the most demanding.
        cpu_features: those of the CPU (Linux's or LLVM's spelling), by default of this one.
        machine: architecture, by default of this machine.
        system: operating system, by default of this machine.

    Raises:
        ArtifactError: it was built for another architecture or system, or the CPU lacks features.
    """
    here = (machine or cpu.machine(), system or cpu.system())
    built = (manifest["machine"], manifest["system"])
    subject = f"artifact for target '{manifest['target']}'"
    if here != built:
        raise ArtifactError(
            f"{subject}: found code for {built[0]} on {built[1]}, expected {here[0]} on {here[1]}; "
            "build the model again with a --target for this machine"
        )
    available = cpu.normalise(cpu.cpu_features() if cpu_features is None else cpu_features, here[0])
    missing = [cpu.normalise(variant["requires"], here[0]) - available for variant in manifest["variants"]]
    for variant, lacks in zip(reversed(manifest["variants"]), reversed(missing), strict=True):
        if not lacks:
            chosen: dict[str, Any] = variant
            return chosen
    closest = min(range(len(missing)), key=lambda index: len(missing[index]))
    absent = ", ".join(sorted(missing[closest]))
    if cpu_features is None and missing[closest] & cpu.withheld():
        absent += f" (Linux refuses AMX to this process: {amx.refusal()})"
    raise ArtifactError(
        f"{subject}: found a CPU without {absent}, expected them for variant "
        f"'{manifest['variants'][closest]['name']}'; build the model again with a --target that this CPU can run "
        "('lqcompile targets' lists them)"
    )


def _pack(files: Mapping[str, bytes]) -> bytes:
    """A deterministic tar: no times, owners or modes of the machine that writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.size, header.mode = len(data), 0o644
            tar.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


def _packed_size(sizes: Iterable[int]) -> int:
    """Bytes of a tar of files of these sizes: headers and data in blocks, two empty blocks, whole records."""
    block, record = tarfile.BLOCKSIZE, tarfile.RECORDSIZE
    used = sum(block + -(-size // block) * block for size in sizes) + 2 * block
    return -(-used // record) * record


def _read(path: Path, file: BinaryIO, subject: str) -> Artifact:
    mark = MANIFEST.encode() + b"\0"
    if file.read(len(mark)) != mark:
        raise ArtifactError(f"{subject}: found another kind of file, expected an artifact; {_REBUILD}")
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    starts, digests = {}, {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            manifest = _parse_manifest(_content(tar, _next_member(tar)).read(), subject)
            _check_size(size, manifest, subject)
            for _ in manifest["members"]:
                header = _next_member(tar)
                starts[header.name] = (header.offset_data, header.size)
                digests[header.name] = hashlib.file_digest(_content(tar, header), "sha256").hexdigest()
    except (tarfile.TarError, EOFError) as error:
        raise ArtifactError(
            f"{subject}: found a truncated or altered file ({error}), expected a whole one; {_REBUILD}"
        ) from error
    _check_members(digests, manifest, subject)
    return Artifact(path=path, manifest=manifest, members=Members(path, digests, starts))


def _next_member(tar: tarfile.TarFile) -> tarfile.TarInfo:
    header = tar.next()
    if header is None:
        raise EOFError("a member is missing")
    if not header.isreg() or not _is_safe(header.name):
        raise EOFError(f"member {header.name!r} is not a plain file with a safe name")
    return header


def _content(tar: tarfile.TarFile, header: tarfile.TarInfo) -> io.BufferedReader:
    return cast("io.BufferedReader", tar.extractfile(header))


def _parse_manifest(data: bytes, subject: str) -> Manifest:
    try:
        manifest = json.loads(data)
    except ValueError as error:
        raise ArtifactError(f"{subject}: found an altered manifest ({error}), expected JSON; {_REBUILD}") from error
    check_manifest(manifest, subject)
    if manifest["sha256"] != _manifest_hash(manifest) or data != _manifest_bytes(manifest):
        raise ArtifactError(f"{subject}: found an altered manifest, expected the one that was written; {_REBUILD}")
    checked: Manifest = manifest
    return checked


def _check_size(found: int, manifest: Manifest, subject: str) -> None:
    sizes = [len(_manifest_bytes(manifest)), *(entry["bytes"] for entry in manifest["members"].values())]
    expected = _packed_size(sizes)
    if found != expected:
        state = "a truncated file" if found < expected else "a file with something added"
        raise ArtifactError(f"{subject}: found {state} of {found} bytes, expected {expected}; {_REBUILD}")


def _check_members(digests: Mapping[str, str], manifest: Manifest, subject: str) -> None:
    for name, entry in manifest["members"].items():
        if name not in digests:
            raise ArtifactError(f"{subject}: found no member '{name}', expected it after the manifest; {_REBUILD}")
        if digests[name] != entry["sha256"]:
            raise _altered(subject, name)


def _unreadable(subject: str, error: OSError) -> ArtifactError:
    return ArtifactError(f"{subject}: found {_reason(error)}, expected a readable file; check the path")


def _altered(subject: str, name: str) -> ArtifactError:
    return ArtifactError(f"{subject}: found member '{name}' altered, expected its SHA-256 to match; {_REBUILD}")


def _manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def _manifest_hash(manifest: Mapping[str, Any]) -> str:
    return _sha256(_manifest_bytes({key: value for key, value in manifest.items() if key != "sha256"}))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_safe(name: str) -> bool:
    return len(name) <= _MAX_NAME and _SAFE_NAME.fullmatch(name) is not None


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
