"""What code generation says when its tools refuse."""

import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from plans import PlanBuilder

from lqcompile import codegen
from lqcompile.errors import BuildError
from lqcompile.lowering.driver import lower_program
from lqcompile.lowering.lower import lower
from lqcompile.target import find


@pytest.fixture(scope="module")
def driver():
    builder = PlanBuilder(np.random.default_rng(0), (2, 3, 3))
    plan = builder.finish(builder.quantized_input(None))
    return lower_program(lower(plan, find("x86-avx2")))[1]


def test_a_library_is_linked(driver) -> None:
    target = find("x86-avx2")
    library = codegen.link(codegen.compile_driver(driver, target), target)
    assert library[:4] == b"\x7fELF"


def test_a_failing_linker_is_quoted(driver, monkeypatch: pytest.MonkeyPatch) -> None:
    executable = codegen.compile_driver(driver, find("x86-avx2"))
    run = subprocess.run

    def broken(command, **options):
        return run([sys.executable, "-c", "raise SystemExit('no such object')"], **options)

    monkeypatch.setattr(codegen.subprocess, "run", broken)
    message = r"^linker \(ziglang ld.lld\): exit code 1: no such object; reinstall 'ziglang'$"
    with pytest.raises(BuildError, match=message):
        codegen.link(executable, find("x86-avx2"))


def test_a_module_that_tvm_refuses_names_the_target(driver) -> None:
    target = replace(find("x86-avx2"), llvm={"mcpu": 7})
    with pytest.raises(BuildError, match=r"^target 'x86-avx2': TVM cannot compile the network: .+$"):
        codegen.compile_driver(driver, target)


def test_who_sets_options_of_llvm_compiles_alone() -> None:
    compilers = codegen.Compilers()
    inside: list[str] = []
    entered, leave = threading.Semaphore(0), threading.Event()

    def compile_as(name: str, alone: bool) -> None:
        with compilers.compiling(alone=alone):
            inside.append(name)
            entered.release()
            assert leave.wait(60)
            inside.remove(name)

    def start(name: str, alone: bool) -> threading.Thread:
        thread = threading.Thread(target=compile_as, args=[name, alone])
        thread.start()
        return thread

    both = [start("first", False), start("second", False)]
    assert entered.acquire(timeout=60) and entered.acquire(timeout=60) and len(inside) == 2
    alone = start("alone", True)
    assert not entered.acquire(timeout=0.2), "it waits for the others"
    leave.set()
    for thread in (*both, alone):
        thread.join(60)
    leave.clear()
    alone = start("alone", True)
    assert entered.acquire(timeout=60) and entered.acquire(timeout=60) and inside == ["alone"]
    other = start("other", False)
    assert not entered.acquire(timeout=0.2), "the others wait for it"
    leave.set()
    for thread in (alone, other):
        thread.join(60)
    assert not inside and entered.acquire(timeout=60)


def test_threads_do_not_change_the_code(driver) -> None:
    def code(target: str, found: dict[str, str]) -> None:
        found[target] = codegen.assembly(codegen.compile_driver(driver, find(target)), find(target))

    names = ["x86-avx2", "x86-avx512", "x86-avx-vnni", "x86-avx512-vnni"]
    apart: dict[str, str] = {}
    for name in names:
        code(name, apart)
    together: dict[str, str] = {}
    threads = [threading.Thread(target=code, args=[name, together]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == apart
