"""Imports point one way, torch and TVM never meet, and the package itself costs nothing to import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = {
    "errors": 0,
    "wording": 0,
    "encoding": 1,
    "amx": 1,
    "cpu": 1,
    "files": 1,
    "target": 1,
    "tvm_runtime": 1,
    "targets": 1,
    "conditions": 1,
    "integer_basis": 2,
    "inputs": 2,
    "manifest": 2,
    "timing": 2,
    "artifact": 3,
    "layout": 5,
    "graph": 3,
    "nn": 4,
    "models": 5,
    "training": 6,
    "reference": 4,
    "integer_form": 5,
    "schedules": 5,
    "codegen": 5,
    "lowering": 5,
    "facts": 5,
    "float_twin": 5,
    "runtime": 6,
    "wheels": 1,
    "bundle": 2,
    "rpc": 8,
    "build": 6,
    "cuda": 6,
    "kernels": 6,
    "select": 6,
    "trials": 6,
    "records": 5,
    "tuning": 8,
    "openvino_peer": 5,
    "peers": 6,
    "verify": 7,
    "profiling": 7,
    "reporting": 8,
    "bench": 7,
    "gpu_bench": 7,
    "cli": 9,
    "__main__": 10,
}
"""Part of the package to its height: a part imports parts that are not higher."""


def module_files():
    """Module name to file, of everything that is installed."""
    files = {}
    for folder, package in (
        ("lqcompile", "lqcompile"),
        ("targets", "lqcompile.targets"),
        ("schedules", "lqcompile.schedules"),
    ):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            files[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return files


FILES = module_files()


def is_type_checking(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def runtime_nodes(tree):
    """Every node but those under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(tree):
        if not is_type_checking(child):
            yield child
            yield from runtime_nodes(child)


def imported(module):
    """Names of the modules that a module imports anywhere in it, own ones resolved to the module that is read."""
    path = FILES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in runtime_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                found.add(inner if inner in FILES else source)
    return found


IMPORTS = {module: imported(module) for module in FILES}


def reachable(module):
    """The module and all of lqcompile that it imports, directly or not (packages on the way included)."""
    seen, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in FILES and name not in seen:
            seen.add(name)
            parents = [name.rpartition(".")[0]] if name.count(".") else []
            waiting.extend([*IMPORTS[name], *parents])
    return seen


def outside(modules):
    """Top-level packages that modules import from outside lqcompile."""
    return {name.partition(".")[0] for module in modules for name in IMPORTS[module]} - {"lqcompile"}


def part(module):
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("module", [name for name in FILES if "." in name])
def test_imports_point_one_way(module):
    assert part(module) in LAYERS, f"{module}: give '{part(module)}' a height in LAYERS"
    for name in IMPORTS[module]:
        if name.startswith("lqcompile."):
            assert LAYERS[part(name)] <= LAYERS[part(module)], f"{module} imports {name}, which is above it"


@pytest.mark.parametrize("module", [name for name in FILES if part(name) not in ("", "cli", "__main__")])
def test_torch_and_tvm_never_meet(module):
    tools = outside(reachable(module))
    assert not {"torch", "tvm"} <= tools, f"{module} reaches both torch and tvm"


@pytest.mark.parametrize("module", FILES)
def test_no_module_imports_torch_and_tvm(module):
    assert not {"torch", "tvm"} <= outside([module])


def test_only_the_front_end_imports_torch():
    assert {part(module) for module in FILES if "torch" in outside([module])} <= {
        "gpu_bench",
        "models",
        "nn",
        "training",
    }


@pytest.mark.skipif("lqcompile.runtime" not in FILES, reason="there is no runtime yet")
def test_running_needs_neither_the_compiler_nor_torch_nor_onnx():
    tools = outside(reachable("lqcompile.runtime"))
    assert not tools & {"torch", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "typer"}


HEAVY = ("numpy", "onnx", "onnx_ir", "onnxruntime", "torch", "tvm", "tvm_ffi")


def loaded_after(code):
    """Which of the heavy packages a fresh interpreter holds after running `code`."""
    script = f"import sys\n{code}\nprint([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return ast.literal_eval(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "code",
    [
        "import lqcompile; lqcompile.__version__; lqcompile.LQCompileError; dir(lqcompile)",
        "from lqcompile.cli import main; assert main(['--help']) == 0",
        "from lqcompile.cli import main; assert main(['build', '--help']) == 0",
    ],
)
def test_import_and_help_load_nothing_heavy(code):
    assert loaded_after(code) == []


def test_package_names():
    import lqcompile

    assert lqcompile.__version__.count(".") == 2
    assert {"build", "load", "verify", "quantize", "calibrate", "snap", "export", "LQConv2d"} <= set(dir(lqcompile))
    with pytest.raises(AttributeError, match=r"module 'lqcompile' has no attribute 'compile'"):
        _ = lqcompile.compile


def test_without_torch_the_front_end_says_what_to_install():
    script = (
        "import sys\nsys.modules['torch'] = None\nimport lqcompile\n"
        "try:\n    lqcompile.quantize\nexcept lqcompile.LQCompileError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == (
        "lqcompile.quantize: found no torch, expected the training extra; pip install 'lqcompile[train]'\n"
    )


@pytest.mark.parametrize("name", ["build", "verify"])
def test_a_function_keeps_its_name_when_its_module_is_imported(name):
    script = (
        f"import importlib, lqcompile\nmodule = importlib.import_module('lqcompile.{name}')\n"
        f"assert lqcompile.{name} is module.{name}, lqcompile.{name}\nassert callable(lqcompile.{name})\n"
    )
    if f"lqcompile.{name}" not in FILES:
        pytest.skip(f"there is no lqcompile.{name} yet")
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
