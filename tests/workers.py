"""How a worker of pytest-xdist ended that should not have: pytest itself says only that it is gone."""

import contextlib
import signal
import subprocess

import pytest

WAIT_S = 10.0


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Say on standard error by which signal, or with which exit code, a worker left before its time."""
    process = getattr(node.gateway._io, "popen", None)
    if not error or process is None:
        return
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(WAIT_S)
    terminal = node.config.pluginmanager.get_plugin("terminalreporter")
    terminal.write_line(f"{node.gateway.id} (process {process.pid}) ended {ending(process.returncode)}", red=True)


def ending(code):
    """An exit code of subprocess in words."""
    if code is None:
        return "its connection, but still runs"
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
