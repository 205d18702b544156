"""Linux's leave to use AMX: asked for once, and its refusal in words."""

import ctypes
import errno
import platform
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from lqcompile import amx, cpu
from lqcompile.artifact import select_variant
from lqcompile.errors import ArtifactError

pytestmark = pytest.mark.skipif(
    (cpu.system(), cpu.machine()) != ("linux", "x86_64"), reason="AMX belongs to x86-64, and this asks Linux for it"
)

FEATURES = "avx2 amx_tile amx_int8"


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch):
    """Makes the CPU have AMX, and Linux answer a request with an error number, 0 for leave; gives the calls."""
    calls = []
    caches = (amx.refusal, cpu.withheld, cpu.cpu_features)

    def set_answer(number: int) -> list:
        def syscall(*arguments):
            calls.append(arguments)
            ctypes.set_errno(number)
            return -1 if number else 0

        monkeypatch.setattr(amx.ctypes, "CDLL", lambda *_, **__: SimpleNamespace(syscall=syscall))
        monkeypatch.setattr(cpu, "parse_cpuinfo", lambda *_: cpu.normalise(FEATURES.split(), "x86_64"))
        return calls

    for cached in caches:
        cached.cache_clear()
    yield set_answer
    for cached in caches:
        cached.cache_clear()


def manifest() -> dict:
    entries = [{"name": name, "requires": names} for name, names in (("old", ["avx2"]), ("new", FEATURES.split()))]
    return {"machine": "x86_64", "system": "linux", "target": "both", "variants": entries}


def test_tiles_that_linux_allows_are_used(answer) -> None:
    calls = answer(0)
    assert {"amx-tile", "amx-int8"} <= cpu.cpu_features()
    assert cpu.withheld() == frozenset()
    assert select_variant(manifest())["name"] == "new"
    # arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA), asm/prctl.h and asm/fpu/types.h of Linux.
    assert calls == [(158, 0x1023, 18)]


def test_tiles_that_linux_refuses_are_left_alone(answer) -> None:
    answer(errno.EPERM)
    assert not {"amx-tile", "amx-int8"} & cpu.cpu_features()
    assert select_variant(manifest())["name"] == "old"


def test_an_artifact_that_needs_refused_tiles_says_so(answer) -> None:
    answer(errno.EPERM)
    only = {**manifest(), "variants": manifest()["variants"][1:]}
    message = (
        "artifact for target 'both': found a CPU without amx-int8, amx-tile (Linux refuses AMX to this process: "
        "Operation not permitted), expected them for variant 'new'; build the model again with a --target that this "
        "CPU can run ('lqcompile targets' lists them)"
    )
    with pytest.raises(ArtifactError, match=f"^{re.escape(message)}$"):
        select_variant(only)


@pytest.mark.skipif(platform.system() != "Linux", reason="asks Linux")
def test_linux_answers() -> None:
    """Leave or a reason; the process goes on either way."""
    reason = amx.refusal()
    assert reason == "" or reason.strip()
    features = cpu.parse_cpuinfo(Path("/proc/cpuinfo").read_text(errors="replace"), "x86_64")
    assert ("amx-tile" in cpu.cpu_features()) == ("amx-tile" in features and not reason)
