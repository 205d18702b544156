"""Fetching wheels: what pip is asked for, and what it says when it cannot."""

import importlib.util
import subprocess
import sys

import pytest

from lqcompile import wheels
from lqcompile.errors import BuildError

PIP = """
import pathlib, sys
arguments = sys.argv[1:]
pathlib.Path({log!r}).write_text("\\n".join(arguments))
print("Collecting numpy")
print("  Downloading numpy-2.4.6-cp311-cp311-manylinux_2_28_aarch64.whl (16.0 MB)")
if {fails}:
    print("WARNING: Retrying")
    print("ERROR: Could not find a version")
    print("ERROR: No matching distribution found for numpy")
    sys.exit(1)
pathlib.Path(arguments[arguments.index("--dest") + 1], "numpy-2.4.6.whl").write_bytes(b"wheel")
"""


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """Replaces pip by a program that writes down what it was asked for."""

    def install(*, fails=False):
        log = tmp_path / "arguments"
        program = PIP.format(log=str(log), fails=fails)
        start = subprocess.Popen
        monkeypatch.setattr(
            subprocess,
            "Popen",
            lambda command, **options: start([sys.executable, "-c", program, *command[3:]], **options),
        )
        return log

    return install


def test_wheels_are_kept_in_the_folder(pip, tmp_path):
    log = pip()
    said = []
    found = wheels.download(["numpy"], "aarch64", "3.11", tmp_path / "new" / "wheels", said.append)
    assert found == [tmp_path / "new" / "wheels" / "numpy-2.4.6.whl"]
    assert found[0].read_bytes() == b"wheel"
    assert said == ["downloading numpy-2.4.6-cp311-cp311-manylinux_2_28_aarch64.whl (16.0 MB)"]
    arguments = log.read_text().split("\n")
    assert arguments[0] == "download"
    assert arguments[arguments.index("--python-version") + 1] == "3.11"
    assert arguments[arguments.index("--find-links") + 1] == str(tmp_path / "new" / "wheels")
    assert {"--platform=manylinux_2_28_aarch64", "--platform=manylinux2014_aarch64"} <= set(arguments)
    assert arguments[-1] == "numpy"


def test_without_network(pip, tmp_path):
    pip(fails=True)
    with pytest.raises(BuildError) as caught:
        wheels.download(["numpy"], "aarch64", "3.13", tmp_path, lambda line: None)
    assert str(caught.value) == (
        "bundle: pip could not fetch the wheels for Python 3.13 on aarch64 (No matching distribution found for numpy); "
        "check the network, or give a folder of wheels with --wheels"
    )
    assert not list(tmp_path.glob("*.whl"))


def test_without_pip(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        BuildError, match=r"^bundle: found no pip in .*, expected it to fetch wheels; install pip there$"
    ):
        wheels.download(["numpy"], "aarch64", "3.13", tmp_path, lambda line: None)


def test_versions_are_those_installed_here():
    pins = dict(line.split("==") for line in wheels._installed())
    import numpy

    assert pins["numpy"] == numpy.__version__
    assert not any("+" in version for version in pins.values())
