"""What code generation says when its tools refuse."""

import subprocess
import sys
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
    library = codegen.link(codegen.compile_driver(driver, find("x86-avx2")))
    assert library[:4] == b"\x7fELF"


def test_a_failing_linker_is_quoted(driver, monkeypatch: pytest.MonkeyPatch) -> None:
    executable = codegen.compile_driver(driver, find("x86-avx2"))
    run = subprocess.run

    def broken(command, **options):
        return run([sys.executable, "-c", "raise SystemExit('no such object')"], **options)

    monkeypatch.setattr(codegen.subprocess, "run", broken)
    message = r"^linker \(ziglang ld.lld\): exit code 1: no such object; reinstall 'ziglang'$"
    with pytest.raises(BuildError, match=message):
        codegen.link(executable)


def test_a_module_that_tvm_refuses_names_the_target(driver) -> None:
    target = replace(find("x86-avx2"), llvm={"mcpu": 7})
    with pytest.raises(BuildError, match=r"^target 'x86-avx2': TVM cannot compile the network: .+$"):
        codegen.compile_driver(driver, target)
