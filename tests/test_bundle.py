"""The device bundle: what is in it, and that a board runs from it."""

import json
import os
import subprocess
import tarfile
import zipfile

import pytest

from lqcompile import bundle as bundling
from lqcompile.bundle import bundle
from lqcompile.cli import main
from lqcompile.errors import BuildError

UNIVERSAL = {
    "apache_tvm-0.27-py3-none-manylinux_2_28_aarch64.whl": {
        "tvm/__init__.py": b"tvm",
        "tvm/lib/libtvm_runtime.so": b"runtime",
        "tvm/lib/libtvm_compiler.so": b"compiler",
        "tvm/3rdparty/cutlass/a.h": b"header",
        "tvm/srcless.py": b"kept",
    },
    "rich-15.0-py3-none-any.whl": {"rich/__init__.py": b"rich", "rich-15.0.data/scripts/x": b"script"},
}


def compiled_wheel(python):
    tag = python.replace(".", "")
    return f"numpy-2.4-cp{tag}-cp{tag}-manylinux_2_28_aarch64.whl", {"numpy/__init__.py": python.encode()}


@pytest.fixture
def fetched(monkeypatch):
    """Replaces pip: writes small wheels; gives the questions it was asked."""
    asked = []

    def download(requirements, machine, python, folder, report):
        asked.append((tuple(requirements), machine, python, folder))
        report("downloading tvm")
        folder.mkdir(exist_ok=True)
        paths = []
        for name, files in [*UNIVERSAL.items(), compiled_wheel(python)]:
            with zipfile.ZipFile(folder / name, "w") as archive:
                for path, data in files.items():
                    archive.writestr(path, data)
            paths.append(folder / name)
        return paths

    monkeypatch.setattr(bundling, "download", download)
    return asked


def members(path):
    with tarfile.open(path) as tar:
        return {item.name.removeprefix("lqcompile-board/"): (item, tar.extractfile(item).read()) for item in tar}


def test_content(fetched, tmp_path):
    steps = []
    report = bundle(
        "raspberry-pi-4", output=tmp_path / "b.tar.gz", wheels=tmp_path / "w", progress=lambda *step: steps.append(step)
    )
    assert [(question[1:]) for question in fetched] == [
        ("aarch64", python, tmp_path / "w") for python in bundling.PYTHONS
    ]
    files = members(tmp_path / "b.tar.gz")
    assert files["common/tvm/lib/libtvm_runtime.so"][1] == b"runtime"
    assert files["python3.11/numpy/__init__.py"][1] == b"3.11"
    assert files["python3.13/numpy/__init__.py"][1] == b"3.13"
    assert files["machine"][1] == b"aarch64\n"
    assert {"common/tvm/srcless.py", "common/rich/__init__.py", "common/lqcompile/targets/arm_cpu.py"} <= set(files)
    assert {"common/lqcompile/rpc/serve.py", "common/lqcompile/schedules/arm_cpu.py"} <= set(files)
    assert not [name for name in files if "compiler.so" in name or "3rdparty" in name or ".data/" in name]
    assert not [name for name in files if name.startswith("common/lqcompile/data/") or name.endswith(".pyc")]
    assert [name for name, (item, _) in files.items() if item.mode & 0o100] == ["lqcompile", "serve"]
    assert report.packages["numpy"] == "2.4"
    assert report.bytes == (tmp_path / "b.tar.gz").stat().st_size
    assert steps[0] == ("asking for wheels for Python 3.11", 0.0)
    assert [done for _, done in steps] == sorted(done for _, done in steps)
    assert steps[-1][0] == "packing"


def test_a_package_of_two_versions_goes_to_each_python(fetched, tmp_path, monkeypatch):
    once = bundling.download

    def download(requirements, machine, python, folder, report):
        paths = once(requirements, machine, python, folder, report)
        return [path.rename(path.with_name(path.name.replace("rich-15.0", f"rich-{python}"))) for path in paths]

    monkeypatch.setattr(bundling, "download", download)
    bundle("arm-cpu", output=tmp_path / "b.tar.gz", wheels=tmp_path / "w")
    files = members(tmp_path / "b.tar.gz")
    assert {"python3.11/rich/__init__.py", "python3.13/rich/__init__.py"} <= set(files)
    assert "common/rich/__init__.py" not in files


def test_a_target_that_tvm_publishes_no_wheel_for(fetched, tmp_path):
    with pytest.raises(BuildError) as caught:
        bundle("apple-m1", output=tmp_path / "b.tar.gz")
    assert str(caught.value) == (
        "bundle: found target 'apple-m1' for aarch64 on darwin, expected Linux on aarch64 or x86_64, which TVM "
        "publishes wheels for"
    )
    assert (fetched, list(tmp_path.iterdir())) == ([], [])


@pytest.mark.parametrize("python", ["3", "2.7", "3.10", "3.11.2", "python3.11"])
def test_what_is_no_python_version(fetched, tmp_path, python):
    with pytest.raises(BuildError, match=rf"^bundle: found Python '{python}', expected 3\.11 or newer, such as 3\.13$"):
        bundle("arm-cpu", output=tmp_path / "b.tar.gz", pythons=[python])


def test_an_output_that_cannot_be_written_is_found_first(fetched, tmp_path):
    with pytest.raises(BuildError, match="expected it to exist; create it first"):
        bundle("arm-cpu", output=tmp_path / "no" / "b.tar.gz")
    assert fetched == []


def test_command(fetched, tmp_path, capsys):
    output = tmp_path / "b.tar.gz"
    assert main(["bundle", "--python", "3.12", "-o", str(output), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["bundle"], report["machine"], report["pythons"]) == (str(output), "aarch64", ["3.12"])
    assert main(["bundle", "-o", str(output)]) == 0
    assert "tar xf b.tar.gz && ./lqcompile-board/serve" in capsys.readouterr().out


# On a board


@pytest.fixture
def unpacked(fetched, tmp_path):
    bundle("arm-cpu", output=tmp_path / "b.tar.gz")
    with tarfile.open(tmp_path / "b.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path / "lqcompile-board"


def started(folder, python, answer):
    """Run a bundle with a Python that answers the launcher's question so, and then shows how it was started."""
    program = folder / python
    program.write_text(f'#!/bin/sh\nif [ $1 = -c ]; then echo {answer}; else echo "$@"; echo $PYTHONPATH; fi\n')
    program.chmod(0o755)
    done = subprocess.run(
        [folder / "serve", "--port", "0"],
        env=os.environ | {"LQCOMPILE_PYTHON": str(program)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_board_s_python_runs_it(unpacked):
    assert started(unpacked, "right", "3.13 aarch64") == (
        0,
        f"-P -m lqcompile serve --port 0\n{unpacked}/common:{unpacked}/python3.13\n",
        "",
    )


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("3.9 aarch64", "found Python 3.9 here, expected one of: python3.11 python3.13; make the bundle with --python"),
        (
            "3.11 x86_64",
            "found a Python for x86_64 here, expected aarch64; install the 64-bit system, or make the bundle",
        ),
        (
            "3.11 32-bit",
            "found a Python for 32-bit here, expected aarch64; install the 64-bit system, or make the bundle",
        ),
    ],
)
def test_a_python_that_the_bundle_is_not_for(unpacked, answer, message):
    code, out, err = started(unpacked, "other", answer)
    assert (code, out) == (1, "")
    assert err.startswith(f"lqcompile: error: {message}")
    assert err.count("\n") == 1


def test_without_python(unpacked):
    done = subprocess.run(
        [unpacked / "lqcompile"],
        env=os.environ | {"LQCOMPILE_PYTHON": "no-such-python"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 1
    assert done.stderr == ("lqcompile: error: found no no-such-python, expected Python 3; sudo apt install python3\n")
