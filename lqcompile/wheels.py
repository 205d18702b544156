"""Wheels for another machine, fetched by this machine's pip."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from lqcompile.errors import BuildError

_OLDEST_GLIBC, _NEWEST_GLIBC = 17, 28
"""2.17 to 2.28: Debian 10 and everything after it runs these wheels."""


def download(
    requirements: Sequence[str], machine: str, python: str, folder: Path, report: Callable[[str], None]
) -> list[Path]:
    """Fetch wheels and all that they need, in the versions that are installed here where they are.

    Args:
        requirements: names of packages.
        machine: architecture of a Linux machine, such as ``aarch64``.
        python: its Python, such as ``3.11``.
        folder: where the wheels go; those that are there are not fetched again.
        report: called with what is being done.

    Returns:
        the wheels, sorted by name.

    Raises:
        BuildError: there is no pip here, no wheel for that machine, or no network.
    """
    if importlib.util.find_spec("pip") is None:
        raise BuildError(f"bundle: found no pip in {sys.executable}, expected it to fetch wheels; install pip there")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lqcompile-") as scratch:
        constraints = Path(scratch) / "constraints.txt"
        constraints.write_text("\n".join(_installed()) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--no-color"]
        command += ["--progress-bar", "off", "--retries", "2", "--only-binary", ":all:", "--implementation", "cp"]
        command += ["--python-version", python, *(f"--platform={tag}" for tag in _platforms(machine))]
        command += ["--constraint", str(constraints), "--find-links", str(folder), "--dest", scratch, *requirements]
        errors = _run(command, report)
        if errors is not None:
            raise BuildError(
                f"bundle: pip could not fetch the wheels for Python {python} on {machine} ({errors}); "
                "check the network, or give a folder of wheels with --wheels"
            )
        return [wheel.replace(folder / wheel.name) for wheel in sorted(Path(scratch).glob("*.whl"))]


def _run(command: Sequence[str], report: Callable[[str], None]) -> str | None:
    """Run pip; gives its last error, None where it did what it should."""
    last = "no reason given"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        try:
            for line in pip.stdout or ():
                text = line.strip()
                if text.startswith("Downloading"):
                    report(text[0].lower() + text[1:])
                elif text.startswith("ERROR:"):
                    last = text.removeprefix("ERROR:").strip()
        except BaseException:
            pip.kill()
            raise
    return None if pip.returncode == 0 else last


def _platforms(machine: str) -> list[str]:
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(_NEWEST_GLIBC, _OLDEST_GLIBC - 1, -1)]
    return [*tags, f"manylinux2014_{machine}"]


def _installed() -> list[str]:
    """What is installed here, as constraints; builds of one's own (a version with ``+``) cannot be fetched."""
    pairs = {(item.metadata["Name"], item.version) for item in importlib.metadata.distributions()}
    return sorted(f"{name}=={version}" for name, version in pairs if name and "+" not in version)
