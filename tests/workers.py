"""How a worker of pytest-xdist ended that should not have: pytest itself says only that it is gone."""

import contextlib
import faulthandler
import os
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

WAIT_S = 10.0

STACKS = "lqcompile_stacks"
"""Key of a worker's input: the file in which it leaves the stacks of its threads when it crashes."""


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Give a worker a file to crash into."""
    node.workerinput[STACKS] = tempfile.mkstemp(prefix="lqcompile-stacks-")[1]


def pytest_collection_finish(session):
    """Take crashes from TVM, whose handler writes where pytest throws it away, and which loads it when imported."""
    path = getattr(session.config, "workerinput", {}).get(STACKS)
    if path is not None:
        import tvm_ffi  # noqa: F401

        faulthandler.disable()
        faulthandler.enable(os.open(path, os.O_WRONLY))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Say by which signal, or with which exit code, a worker left before its time, and what its threads were doing."""
    process = getattr(node.gateway._io, "popen", None)
    stacks = Path(node.workerinput[STACKS])
    if error and process is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(WAIT_S)
        terminal = node.config.pluginmanager.get_plugin("terminalreporter")
        terminal.write_line(f"{node.gateway.id} (process {process.pid}) ended {ending(process.returncode)}", red=True)
        terminal.write(stacks.read_text(encoding="utf-8"))
    stacks.unlink(missing_ok=True)


def ending(code):
    """An exit code of subprocess in words."""
    if code is None:
        return "its connection, but still runs"
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
