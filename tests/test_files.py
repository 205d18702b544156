"""A file is written whole or not at all, whatever goes wrong."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from lqcompile.errors import BuildError
from lqcompile.files import check_writable, write_atomically


def names(folder):
    return [entry.name for entry in folder.iterdir()]


def fail(code):
    def raises(*_):
        raise OSError(code, os.strerror(code))

    return raises


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "out"
    for data in (b"one" * 1000, b""):
        write_atomically(path, data)
        assert path.read_bytes() == data
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_disk_full_keeps_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "out"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, call, fail(errno.ENOSPC))
    with pytest.raises(BuildError, match=r"output '.+out': found a full disk, expected room for 5 bytes; free some or"):
        write_atomically(path, b"12345")
    assert names(tmp_path) == ["out"]
    assert path.read_bytes() == b"old"


def test_short_writes_are_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    write_atomically(tmp_path / "out", bytes(range(100)))
    assert (tmp_path / "out").read_bytes() == bytes(range(100))


@pytest.mark.parametrize("function", [lambda path: write_atomically(path, b"x"), check_writable])
def test_unusable_names(tmp_path, function):
    with pytest.raises(BuildError, match=r"found no folder '.+none', expected it to exist; create it first"):
        function(tmp_path / "none" / "out")
    with pytest.raises(BuildError, match=r"found is a directory, expected a file name; choose another name"):
        function(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BuildError, match=r"found not a directory, expected a file name"):
        function(tmp_path / "file" / "out")
    assert names(tmp_path) == ["file"]


def test_no_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "write", fail(errno.EACCES))
    with pytest.raises(BuildError, match=r"found permission denied, expected a writable file; choose another folder"):
        write_atomically(tmp_path / "out", b"x")
    assert not names(tmp_path)


def test_check_writable_leaves_nothing(tmp_path):
    check_writable(tmp_path / "out")
    assert not names(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_interrupt_leaves_nothing(tmp_path):
    """Ctrl-C in the middle of the write: the child stops inside os.fsync, when all bytes are in the temporary file."""
    script = (
        "import os, pathlib, sys, time\n"
        "from lqcompile.files import write_atomically\n"
        "def slow(descriptor):\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
        "os.fsync = slow\n"
        "write_atomically(pathlib.Path(sys.argv[1]), b'x' * 100000)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "out")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert child.stdout.readline() == b"writing\n"
    assert len(names(tmp_path)) == 1
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=30) != 0
    child.stdout.close()
    assert not names(tmp_path)
