"""From a driver to machine code: TVM compiles, lld links; no system compiler is needed."""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
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


def compile_driver(driver: Driver, target: Target) -> Any:
    """Compiles the driver's module to a TVM executable for `target`.

    Raises:
        BuildError: TVM refuses the module.
    """
    attributes: dict[str, object] = {"kind": "llvm", **target.llvm}
    try:
        with tvm.transform.PassContext(opt_level=3):
            return tvm.compile(driver.module, target=tvm.target.Target(attributes), tir_pipeline=PIPELINE)
    except (tvm.error.InternalError, ValueError) as error:
        line = str(error).strip().splitlines()[-1]
        raise BuildError(f"target {target.name!r}: TVM cannot compile the network: {line}") from error


def generate(driver: Driver, target: Target, dump: Callable[[str, str], None]) -> bytes:
    """The library of one variant.

    Args:
        driver: of the network.
        target: without variants.
        dump: called with a file's ending and its text, for ``--dump-ir``.

    Raises:
        BuildError: TVM or the linker refuses.
    """
    executable = compile_driver(driver, target)
    dump("s", executable.mod.inspect_source("asm"))
    return link(executable, target.system)


def link(executable: Any, system: str = "linux") -> bytes:
    """The shared library of an executable.

    Args:
        executable: what `compile_driver` made.
        system: operating system that loads it, as `lqcompile.target.Target` names it.

    Raises:
        BuildError: linking failed.
    """
    linker = functools.partial(_link, LINKERS[system])
    linker.output_format = "so"  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory(prefix="lqcompile-") as folder:
        path = Path(folder) / "network.so"
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
