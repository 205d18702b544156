"""The matrix of kernels, prepared where the compiler is and checked where the GPU is, each network in its own process.

    python benchmarks/gpu_series/prepared.py make FOLDER --target cuda-h200 cuda-ptx   # needs no GPU
    python benchmarks/gpu_series/prepared.py check FOLDER --only families --under "compute-sanitizer --tool racecheck"

A kernel that stops the GPU, or never ends, costs its own process. Checking takes neither TVM's compiler nor NVIDIA's.
The exit code is 1 where a network differs from the reference. `--under` runs each check with a tool of NVIDIA's, whose
exit code counts (`--error-exitcode 1`).
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tests"))

SUFFIX = ".case"

TOGETHER = 4
"""Checks that run at the same time, but for those under a tool."""


def make(folder: Path, targets: Sequence[str], only: str) -> None:
    """Compiles the networks that the folder does not hold, on all cores."""
    from gpu_cases import MATRIX

    folder.mkdir(parents=True, exist_ok=True)
    wanted = [(name, target, place(folder, name, target)) for target in targets for name in MATRIX if only in name]
    missing = [entry for entry in wanted if not entry[2].exists()]
    print(f"{len(wanted)} networks, {len(missing)} to be compiled", flush=True)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for name in pool.map(make_one, *zip(*missing, strict=True)) if missing else ():
            print(name, flush=True)


def make_one(name: str, target: str, path: Path) -> str:
    """Compiles a network to a file."""
    import emulated_gpu
    from gpu_cases import MATRIX
    from kept_plans import COPIES, KeptCase, keep

    from lqcompile.cuda.nvrtc import compile_cuda
    from lqcompile.target import find

    case, machine = MATRIX[name](target), find(target)
    architecture = str(machine.llvm["arch"])
    compiled = emulated_gpu.compile_plan(
        case.plan, machine, case.families, lambda source: compile_cuda(source, architecture)
    )
    whole = path.with_suffix(".part")
    keep(KeptCase(compiled=compiled, x=case.x, tolerance=case.tolerance, copies=COPIES), whole)
    whole.rename(path)
    return path.stem


def place(folder: Path, name: str, target: str) -> Path:
    """The file of a network."""
    return folder / f"{target}--{re.sub('[^a-z0-9]+', '-', name.lower())}{SUFFIX}"


def check(folder: Path, only: str, under: str, limit_s: float) -> int:
    """Checks all networks; how many failed."""
    paths = sorted(path for path in folder.glob(f"*{SUFFIX}") if only in path.stem)
    if not paths:
        print(f"{folder}: found no prepared networks, expected some; 'make' makes them")
        return 1
    with ThreadPoolExecutor(1 if under else TOGETHER) as pool:
        found = list(pool.map(lambda path: check_apart(path, under, limit_s), paths))
    failed = [path.stem for path, sound in zip(paths, found, strict=True) if not sound]
    print(f"{len(paths) - len(failed)} of {len(paths)} networks equal the reference")
    if failed:
        print(f"failed: {' '.join(failed)}")
    return len(failed)


def check_apart(path: Path, under: str, limit_s: float) -> bool:
    """Checks a network in a process of its own, and says what it found."""
    command = [*shlex.split(under), sys.executable, __file__, "one", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
        text, sound = (done.stdout + done.stderr).strip(), done.returncode == 0
    except subprocess.TimeoutExpired:
        text, sound = f"found no end after {limit_s:g} s: a kernel that waits for ever", False
    lines = text if under and not sound else text.splitlines()[-1] if text else ""
    print(f"{'ok    ' if sound else 'FAILED'} {path.stem}{'' if sound else f': {lines}'}", flush=True)
    return sound


def check_one(path: Path) -> None:
    """Checks a network in this process."""
    from kept_plans import check_kept

    check_kept(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=["make", "check", "one"])
    parser.add_argument("path", type=Path, help="folder; of 'one' a file of it")
    parser.add_argument("--target", nargs="+", default=["cuda-h200", "cuda-ptx"])
    parser.add_argument("--only", default="", help="networks whose name holds this")
    parser.add_argument("--under", default="", help="command that runs each check")
    parser.add_argument("--limit", type=float, default=120.0, metavar="SECONDS", help="of each check")
    options = parser.parse_args(arguments)
    if options.work == "one":
        check_one(options.path)
        return 0
    if options.work == "make":
        make(options.path, options.target, options.only)
        return 0
    return min(1, check(options.path, options.only, options.under, options.limit))


if __name__ == "__main__":
    sys.exit(main())
