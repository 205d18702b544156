"""Writing a file whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

from lqcompile.errors import BuildError


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader sees the old file or the new one, never a part.

    The bytes go to a temporary file in the same folder, reach the disk, and take the name in one step. Whatever stops
    this, Ctrl-C included, removes the temporary file.

    Raises:
        BuildError: the folder is missing or not writable, the disk is full, or `path` is a folder.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    try:
        try:
            with temporary.open("xb", buffering=0) as file:
                _write_all(file.fileno(), data)
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise BuildError(_explain(path, error, len(data))) from error


def check_writable(path: Path) -> None:
    """Find out before a long job that its result can be written to `path`.

    Raises:
        BuildError: as `write_atomically`, but for a disk that fills up later.
    """
    if path.is_dir():
        raise BuildError(_explain(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)), 0))
    probe = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    try:
        try:
            probe.touch(exist_ok=False)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise BuildError(_explain(path, error, 0)) from error


def _write_all(descriptor: int, data: bytes) -> None:
    """``os.write`` may write less than it is given."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut, where folders can be opened (not on Windows)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _explain(path: Path, error: OSError, size: int) -> str:
    """One line: subject, found, expected, remedy."""
    reason = (error.strerror or str(error)).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"output '{path}': found a full disk, expected room for {size} bytes; free some or choose another folder"
    if error.errno == errno.ENOENT:
        return f"output '{path}': found no folder '{path.parent}', expected it to exist; create it first"
    if error.errno in (errno.EISDIR, errno.ENOTDIR):
        return f"output '{path}': found {reason}, expected a file name; choose another name"
    return f"output '{path}': found {reason}, expected a writable file; choose another folder or change its permissions"
