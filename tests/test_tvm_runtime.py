"""Running needs TVM's runtime library alone."""

import subprocess
import sys

import pytest


def python(script):
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
def test_the_runtime_loads_no_compiler():
    found = python(
        "import sys\nimport lqcompile.runtime\nmaps = open('/proc/self/maps').read()\n"
        "print('tvm' in sys.modules, 'libtvm_compiler' in maps, 'libtvm_runtime' in maps)\n"
    )
    assert found == "False False True\n"


@pytest.mark.parametrize(
    "imports", ["import tvm, lqcompile.runtime", "import lqcompile.runtime, tvm"], ids=["compiler first", "later"]
)
def test_the_compiler_may_come_before_or_after(imports):
    found = python(
        f"{imports}\nimport tvm_ffi\n"
        "tvm_ffi.get_global_func('runtime.config_threadpool')(1, 1)\n"
        "print(tvm.tirx.const(1, 'int32'), tvm_ffi.get_global_func('runtime.NumThreads')())\n"
    )
    assert found.split() == ["1", "1"]


def test_without_tvm_the_message_says_what_to_install():
    found = python(
        "import importlib.util\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'tvm' else find(name, *rest)\n"
        "import lqcompile\n"
        "try:\n    import lqcompile.tvm_runtime\nexcept lqcompile.LQCompileError as error:\n    print(error)\n"
    )
    assert found == "TVM: found no libtvm_runtime, expected it in the package 'tvm'; pip install apache-tvm\n"
