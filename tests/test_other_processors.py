"""Running an artifact in a real process on other x86-64 processors: refused where they cannot, and their own variant.

qemu-user is the processor: an instruction that it lacks ends the process. It shows the host's /proc/cpuinfo, so one is
made of what its own CPUID says (cpuid.c).
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from emulated_pc import pc_asked
from emulation import zig

from lqcompile import cpu
from lqcompile.build import build
from lqcompile.target import expand, find

EMULATOR = "qemu-x86_64-static"

LQCOMPILE = "import sys; sys.modules['torch'] = None; from lqcompile.cli import main; sys.exit(main(sys.argv[1:]))"
"""The command line; where torch is installed TVM's FFI imports it, which takes minutes on an emulated processor."""

pytestmark = pytest.mark.skipif(
    (cpu.system(), cpu.machine()) != ("linux", "x86_64") or shutil.which(EMULATOR) is None,
    reason=f"this needs {EMULATOR} (on Debian: apt install qemu-user-static) and an x86-64 Linux",
)


@functools.cache
def probe(folder: Path) -> Path:
    """The compiled cpuid.c."""
    source, program = Path(__file__).with_name("cpuid.c"), folder / "cpuid"
    zig("cc", "-mcpu=x86_64", "-O1", str(source), "-o", str(program))
    return program


def run(folder: Path, processor: str, *arguments: str | Path) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Runs lqcompile on a processor, by qemu's name; also what that has."""
    told = subprocess.run([EMULATOR, "-cpu", processor, probe(folder)], capture_output=True, text=True, check=True)
    system = folder / processor
    (system / "proc").mkdir(parents=True)
    (system / "proc/cpuinfo").write_text(f"processor\t: 0\nmodel name\t: {processor}\nflags\t\t: {told.stdout}\n")
    command = [EMULATOR, "-cpu", processor, "-L", system, sys.executable, "-c", LQCOMPILE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    return done, set(told.stdout.split())


def test_a_processor_without_avx2_refuses_in_one_line(classifier: Path, tmp_path: Path) -> None:
    done, features = run(tmp_path, "Nehalem", "run", classifier / "model.tar", "--random", "1")
    assert features == {"popcnt"}
    message = (
        r"^lqcompile: error: artifact for target 'x86-avx2': found a CPU without avx2, bmi2, fma, expected them for "
        r"variant 'x86-avx2'; build the model again with a --target that this CPU can run \('lqcompile targets' lists "
        r"them\)$"
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(message, done.stderr, re.MULTILINE), done.stderr


@pytest.mark.skipif(not pc_asked(), reason="takes half a minute; LQCOMPILE_TEST_PC=1 asks for it")
def test_haswell_runs_its_variant_of_an_artifact_for_all(classifier: Path, tmp_path: Path) -> None:
    build(classifier / "model.onnx", target="x86", output=tmp_path / "all.tar")
    given = np.random.default_rng(4).normal(size=(2, 1, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", given)
    arguments = ("--input", tmp_path / "x.npy", "--json", "-o")
    done, features = run(tmp_path, "Haswell", "run", tmp_path / "all.tar", *arguments, tmp_path / "there.npz")
    assert [target.name for target in expand(find("x86")) if set(target.features) <= features] == ["x86-avx2"]
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["variant"] == "x86-avx2"
    here = [sys.executable, "-m", "lqcompile", "run", classifier / "model.tar", *arguments, tmp_path / "here.npz"]
    subprocess.run(here, check=True, capture_output=True)
    there, expected = np.load(tmp_path / "there.npz"), np.load(tmp_path / "here.npz")
    assert there.files == expected.files
    for name in expected.files:
        np.testing.assert_array_equal(there[name], expected[name])
