"""A device bundle: one file with all that a board needs to run and serve compiled models, beside its own Python.

TVM publishes no wheel of its runtime alone, so the bundle takes the wheel for the board's machine and leaves the
compiler out: nine tenths of it. lqcompile itself goes along as it is installed here; its compiling half finds no
compiler there and says so. In the file:

================== ====================================================================================================
``lqcompile``      the command line, run by the board's ``python3``; ``serve`` is short for ``lqcompile serve``
``common/``        packages for every Python: lqcompile, TVM, the command line's
``python3.11/``    packages of compiled code for that Python, NumPy among them; one such folder for each
``machine``        the architecture, as ``uname -m`` has it
================== ====================================================================================================
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import importlib.util
import io
import re
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lqcompile.errors import BuildError
from lqcompile.files import check_writable, write_atomically
from lqcompile.target import expand, find
from lqcompile.wheels import download

FOLDER = "lqcompile-board"
"""What the bundle unpacks to."""

PYTHONS = ("3.11", "3.13")
"""Those of Raspberry Pi OS (Debian) 12 and 13."""

REQUIREMENTS = ("apache-tvm", "apache-tvm-ffi", "numpy", "rich", "typer")
"""What running and serving imports, beside lqcompile."""

_MACHINES = ("aarch64", "x86_64")
"""Linux machines that TVM publishes wheels for."""

_LEFT_OUT = re.compile(
    r"tvm/lib/libtvm_(compiler|runtime_cuda)\.so|(tvm|tvm_ffi)/(3rdparty|include|src|cython|web)/|[^/]+\.data/"
)
"""The compiler, and what only building against TVM needs."""

_PACKAGES = ("lqcompile", "lqcompile.targets", "lqcompile.schedules")

_PROGRAM, _FILE = 0o755, 0o644


@dataclass(frozen=True, kw_only=True)
class BundleReport:
    """What `bundle` made.

    Args:
        bundle: the file.
        machine: that it is for.
        pythons: that it can be run by.
        packages: package name to version.
        bytes: of the file.
        seconds: it took.
    """

    bundle: str
    machine: str
    pythons: tuple[str, ...]
    packages: dict[str, str]
    bytes: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Stable keys."""
        return asdict(self)


def bundle(
    target: str,
    *,
    output: Path,
    pythons: Sequence[str] = PYTHONS,
    wheels: Path | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> BundleReport:
    """Make the device bundle for a target's machine.

    Args:
        target: name of a target; all targets of one architecture share a bundle.
        output: file to write, a gzipped tar.
        pythons: versions that the board may have, such as ``3.11``.
        wheels: folder to keep downloads in for the next time; None forgets them.
        progress: called with what is being done and the part of it that is done, 0 to 1.

    Raises:
        TargetError: the target is unknown.
        BuildError: it is not one that TVM publishes wheels for, a wheel cannot be had, or the file cannot be written.
    """
    start = time.monotonic()
    tell = progress or (lambda _doing, _done: None)
    machine = _machine(target)
    _check_pythons(pythons)
    check_writable(output)
    with tempfile.TemporaryDirectory(prefix="lqcompile-") as scratch:
        found: dict[str, Path] = {}
        homes: dict[str, set[str]] = {}
        for index, python in enumerate(pythons):

            def report(line: str, done: float = index / (len(pythons) + 1)) -> None:
                tell(line, done)

            report(f"asking for wheels for Python {python}")
            for wheel in download(REQUIREMENTS, machine, python, wheels or Path(scratch), report):
                found[wheel.name] = wheel
                homes.setdefault(wheel.name, set()).add(python)
        tell("packing", len(pythons) / (len(pythons) + 1))
        files = lqcompile_files()
        for name, wheel in sorted(found.items()):
            shared = _is_universal(name) and homes[name] == set(pythons)
            folders = ["common"] if shared else [f"python{python}" for python in sorted(homes[name])]
            content = _wheel_files(wheel)
            files |= {f"{folder}/{path}": data for folder in folders for path, data in content.items()}
        data = _pack(files, _top_level(machine))
    write_atomically(output, data)
    versions = {name.split("-")[0]: name.split("-")[1] for name in found}
    return BundleReport(
        bundle=str(output),
        machine=machine,
        pythons=tuple(pythons),
        packages={"lqcompile": importlib.metadata.version("lqcompile"), **versions},
        bytes=len(data),
        seconds=time.monotonic() - start,
    )


def lqcompile_files() -> dict[str, bytes]:
    """The package as it is installed here, without the data of its demo, and the metadata with its version.

    Returns:
        path in the bundle to content.
    """
    files = {}
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        for location in (spec.submodule_search_locations or []) if spec else []:
            root = Path(location)
            for path in sorted(root.rglob("*")):
                inner = path.relative_to(root)
                if path.is_file() and path.suffix in (".py", ".json") and inner.parts[0] != "data":
                    files[f"common/{package.replace('.', '/')}/{inner.as_posix()}"] = path.read_bytes()
    version = importlib.metadata.version("lqcompile")
    metadata = f"Metadata-Version: 2.1\nName: lqcompile\nVersion: {version}\n"
    files[f"common/lqcompile-{version}.dist-info/METADATA"] = metadata.encode()
    return files


def _machine(target: str) -> str:
    """The architecture of a target that a bundle can be made for."""
    chosen = expand(find(target))[0]
    if chosen.system != "linux" or chosen.machine not in _MACHINES:
        raise BuildError(
            f"bundle: found target '{target}' for {chosen.machine} on {chosen.system}, expected Linux on "
            f"{' or '.join(_MACHINES)}, which TVM publishes wheels for"
        )
    return chosen.machine


def _check_pythons(pythons: Sequence[str]) -> None:
    for python in pythons:
        if not re.fullmatch(r"3\.(1[1-9]|[2-9]\d)", python):
            raise BuildError(f"bundle: found Python '{python}', expected 3.11 or newer, such as {PYTHONS[-1]}")


def _is_universal(wheel: str) -> bool:
    """Whether a wheel serves every Python 3: by its tags, the last three parts of its name (PEP 427)."""
    python = wheel.split("-")[-3]
    return "py3" in python.split(".")


def _wheel_files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        return {name: archive.read(name) for name in names if not _LEFT_OUT.match(name)}


def _top_level(machine: str) -> dict[str, tuple[bytes, int]]:
    """Files at the top of the bundle, with their permissions."""
    data = importlib.resources.files("lqcompile") / "data"
    return {
        "lqcompile": ((data / "board_lqcompile.sh").read_bytes(), _PROGRAM),
        "serve": ((data / "board_serve.sh").read_bytes(), _PROGRAM),
        "machine": (f"{machine}\n".encode(), _FILE),
    }


def _pack(files: Mapping[str, bytes], top: Mapping[str, tuple[bytes, int]]) -> bytes:
    """A gzipped tar. All files get the time of now: Python takes a compiled file of the same time for current."""
    buffer = io.BytesIO()
    now = int(time.time())
    members = {**{name: (data, _FILE) for name, data in files.items()}, **top}
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=6) as tar:
        for name, (data, mode) in sorted(members.items()):
            header = tarfile.TarInfo(f"{FOLDER}/{name}")
            header.size, header.mode, header.mtime = len(data), mode, now
            tar.addfile(header, io.BytesIO(data))
    return buffer.getvalue()
