"""What most tests share: seeds, a small compiled network, the command line, and signals as a terminal leaves them."""

import random
import signal
import sys

import numpy as np
import pytest
from workers import pytest_collection_finish as pytest_collection_finish
from workers import pytest_configure_node as pytest_configure_node
from workers import pytest_testnodedown as pytest_testnodedown

# A run in the background may start with these ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

SHARED_TARGET = "x86-avx2"


@pytest.fixture
def seed():
    """A fresh seed, printed so that a failure can be repeated; torch is seeded with it where it is loaded."""
    value = random.randrange(1 << 31)  # noqa: S311 - test data
    print(f"seed {value}")  # noqa: T201 - pytest shows it when the test fails
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(value)
    return value


@pytest.fixture(scope="session")
def shared_target():
    """Name of the target of `classifier`, which this CPU runs."""
    from lqcompile import cpu

    if cpu.machine() != "x86_64" or "avx2" not in cpu.cpu_features():
        pytest.skip(f"this CPU does not run {SHARED_TARGET}")
    return SHARED_TARGET


@pytest.fixture(scope="session")
def classifier(tmp_path_factory, shared_target):
    """Folder with model.onnx and, for `shared_target`, model.tar; nothing may write there."""
    import onnx
    from models import classifier_model

    from lqcompile.build import build

    folder = tmp_path_factory.mktemp("classifier")
    onnx.save(classifier_model(np.random.default_rng(11), shape=(1, 8, 8)), folder / "model.onnx")
    build(folder / "model.onnx", target=shared_target, output=folder / "model.tar")
    return folder


@pytest.fixture
def call(capsys, monkeypatch):
    """Runs a command in this process: exit code, standard output, standard error without how far it was."""
    from lqcompile import cli
    from lqcompile.cli import console

    # How many lines of progress there are is a matter of how busy the machine is.
    monkeypatch.setattr(console, "_lines", lambda _what, _line_s: lambda _doing, _done: None)

    def run(*arguments):
        code = cli.main([str(item) for item in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
