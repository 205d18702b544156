"""From a driver to machine code: TVM compiles, lld links; no system compiler is needed."""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.pipeline import finalize_device_passes, finalize_host_passes
from tvm.tirx.compilation_pipeline import register_tir_pipeline

from lqcompile.errors import BuildError
from lqcompile.lowering.driver import Driver, lower_program
from lqcompile.target import Target

__all__ = ["compile_driver", "generate", "link", "lower_program"]

PIPELINE = "lqcompile"


def _lowering() -> tuple[Any, Any, Any]:
    """The passes that kernels on flat buffers need; TVM's default ones take three times as long, for the same speed.

    StorageRewrite must not run (TVM 0.27): it drops the annotation that keeps register tiles on the stack.
    """
    passes = [
        tirx.transform.FlattenBuffer(),
        tirx.transform.StmtSimplify(),
        s_tir.transform.RewriteUnsafeSelect(),
        tirx.transform.VerifyMemory(),
        tirx.transform.AnnotateEntryFunc(),
        tirx.transform.SplitHostDevice(),
        tirx.transform.MakePackedAPI(),
    ]
    return tvm.ir.transform.Sequential(passes), finalize_host_passes, finalize_device_passes


register_tir_pipeline(PIPELINE, _lowering)


class Compilers:
    """Threads that generate code: any number of them, or a single one that sets options of LLVM.

    TVM 0.27 sets the options of a target (``cl-opt``) for the whole process and takes them back afterwards; threads
    that compile meanwhile would get them too, or lose theirs.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self._alone = False

    @contextmanager
    def compiling(self, *, alone: bool) -> Iterator[None]:
        """Wait for the others where they are in the way, and keep those away that would be."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not (alone and self._count))
            self._count += 1
            self._alone = alone
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._alone = False
                self._changed.notify_all()


COMPILERS = Compilers()
"""Of this process."""


def _sets_options(target: Target) -> bool:
    return "cl-opt" in target.llvm


def compile_driver(driver: Driver, target: Target) -> Any:
    """Compiles the driver's module to a TVM executable for `target`.

    Raises:
        BuildError: TVM refuses the module.
    """
    attributes: dict[str, object] = {"kind": "llvm", **target.llvm}
    try:
        with COMPILERS.compiling(alone=_sets_options(target)), tvm.transform.PassContext(opt_level=3):
            return tvm.compile(driver.module, target=tvm.target.Target(attributes), tir_pipeline=PIPELINE)
    except (tvm.error.InternalError, ValueError) as error:
        line = str(error).strip().splitlines()[-1]
        raise BuildError(f"target {target.name!r}: TVM cannot compile the network: {line}") from error


def generate(driver: Driver, target: Target, dump: Callable[[str, Callable[[], str]], None]) -> bytes:
    """The library of one variant.

    Args:
        driver: of the network.
        target: without variants.
        dump: called with a file's ending and what gives its text, for ``--dump-ir``.

    Raises:
        BuildError: TVM or the linker refuses.
    """
    executable = compile_driver(driver, target)
    dump("s", lambda: assembly(executable, target))
    return link(executable, target)


def assembly(executable: Any, target: Target) -> str:
    """The assembly of an executable."""
    with COMPILERS.compiling(alone=_sets_options(target)):
        text: str = executable.mod.inspect_source("asm")
    return text


def link(executable: Any, target: Target) -> bytes:
    """The shared library of an executable.

    Args:
        executable: what `compile_driver` made.
        target: what it was made for.

    Raises:
        BuildError: linking failed.
    """
    linker = functools.partial(_link, LINKERS[target.system])
    linker.output_format = "so"  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory(prefix="lqcompile-") as folder:
        path = Path(folder) / "network.so"
        with COMPILERS.compiling(alone=_sets_options(target)):
            executable.export_library(str(path), fcompile=linker)
        return path.read_bytes()


LINKERS = {
    "linux": ("ld.lld", "-shared"),
    # Zig's own linker signs the library, without which Apple's processors refuse it.
    "darwin": ("cc", "-target", "aarch64-macos", "-shared", "-nostdlib", "-Wl,-undefined,dynamic_lookup"),
}
"""Subcommand and options of the ziglang wheel for each operating system."""


def _link(linker: Sequence[str], output: str, objects: Sequence[str], options: Sequence[str] = (), **_: object) -> None:
    """Links with the ziglang wheel; TVM calls it with object files."""
    command = [sys.executable, "-m", "ziglang", *linker, "-o", output, *objects, *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        message = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise BuildError(f"linker (ziglang {linker[0]}): exit code {result.returncode}: {message}; reinstall 'ziglang'")
