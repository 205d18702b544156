"""``lqcompile train`` from end to end, on a network and data of one's own."""

import itertools
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import tomli_w
import torch
from tiny_training import arrays

from lqcompile.cli import main
from lqcompile.cli import training as command
from lqcompile.training import load_recipe, recipes, run
from lqcompile.training.checkpoint import load_checkpoint, load_state

OWN = Path(__file__).parents[1] / "tiny_training.py"
EPOCHS = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Recipes and data for two runs: a float twin, and a low-bit network that learns from it."""
    folder = tmp_path_factory.mktemp("own")
    for part, name in enumerate(("train", "test")):
        images, labels = arrays(part, 96)
        np.savez(folder / f"{name}.npz", images=images, labels=labels)
    content = {
        "epochs": 2,
        "network": {"name": f"{OWN}:make", "weight_bits": 32},
        "data": {"set": "npz", "batch": 32, "augment": "crop-flip", "pad": 1},
        "optimizer": {"lr": 0.05},
    }
    (folder / "float.toml").write_text(tomli_w.dumps(content))
    content |= {"epochs": EPOCHS, "snap": {"epochs": 2}, "distillation": {}, "ema_decay": 0.9, "bn_batches": 2}
    content["network"] = {"name": f"{OWN}:make", "weight_bits": 2, "act_bits": 2}
    (folder / "low.toml").write_text(tomli_w.dumps(content))
    return folder


@pytest.fixture(autouse=True)
def no_rehearsal(monkeypatch):
    """tests/training/test_rehearsal.py has it; here it would cost two seconds in every test."""
    monkeypatch.setattr(run, "compile_objection", lambda *_arguments: None)


@pytest.fixture(scope="module")
def twin(folder):
    """The run of the float twin."""
    torch.set_num_threads(1)
    assert main(arguments(folder, "float", folder / "twin")) == 0
    return folder / "twin"


def arguments(folder, name, output, *more):
    return ["train", str(folder / f"{name}.toml"), "--data", str(folder), "-o", str(output), "--threads", "1", *more]


def test_a_killed_run_goes_on(folder, twin, tmp_path, capsys):
    """SIGKILL in the middle; at most the epoch that was running is lost, and the outcome is that of a whole run."""
    more = ("--start", str(twin))
    child = subprocess.Popen(
        [sys.executable, "-m", "lqcompile", *arguments(folder, "low", tmp_path / "killed", *more)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        seen = list(itertools.islice((line for line in child.stderr if line.startswith("epoch ")), 3))
        child.send_signal(signal.SIGKILL)
        assert child.wait(timeout=60) == -signal.SIGKILL
    finally:
        child.kill()
        child.wait()
        child.stderr.close()
    assert [line.split(" ")[1] for line in seen] == [f"{number}/{EPOCHS}" for number in (1, 2, 3)]
    plan = load_recipe(folder / "low.toml")
    done = len(load_checkpoint(tmp_path / "killed" / "checkpoint.pt", plan).history)
    assert 3 <= done < EPOCHS
    assert not list((tmp_path / "killed").glob("*.onnx"))

    assert main(arguments(folder, "low", tmp_path / "killed", *more, "--resume")) == 0
    capsys.readouterr()
    assert main(arguments(folder, "low", tmp_path / "whole", *more, "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    killed, whole = (load_state(tmp_path / name / "final.pt") for name in ("killed", "whole"))
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())
    check_files(tmp_path / "whole", report, plan)


def check_files(output, report, plan):
    """What a run leaves: recipe, log, checkpoints, report, samples and files that ONNX Runtime runs."""
    assert load_recipe(output / "recipe.toml") == plan
    assert len((output / "log.csv").read_text().splitlines()) == 1 + EPOCHS
    stored = json.loads((output / "report.json").read_text())
    assert report == {"run": str(output), **stored}
    samples = np.load(output / "samples.npz")
    images, labels = arrays(1, 96)
    assert np.array_equal(samples["images"][:, 0], images.astype(np.float32) / np.float32(255))
    assert np.array_equal(samples["labels"], labels)
    assert set(stored["files"]) == {"best.onnx", "final.onnx"}
    for name, size in stored["files"].items():
        assert (output / name).stat().st_size == size
    session = ort.InferenceSession(str(output / "final.onnx"))
    logits = session.run(None, {session.get_inputs()[0].name: samples["images"]})[0]
    assert abs((logits.argmax(1) == labels).mean() - report["top1"]) < 0.05


def test_ctrl_c_says_how_to_go_on(folder, twin, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "_show", lambda epoch, epochs: signal.raise_signal(signal.SIGINT))
    assert main(arguments(folder, "low", tmp_path / "run", "--start", str(twin))) == 130
    error = capsys.readouterr().err
    assert (
        f"Stopped; to go on from the last whole epoch, repeat the command with --resume ({tmp_path / 'run'})." in error
    )
    assert (tmp_path / "run" / "checkpoint.pt").exists()


def refuse(capsys, *call):
    """The one line that a call gives."""
    assert main(call) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    return line.removeprefix("lqcompile: error: ")


def test_what_is_refused(folder, twin, tmp_path, capsys):
    error = refuse(capsys, *arguments(folder, "float", twin))
    assert error == (
        f"run '{twin}': found a run with a checkpoint, expected a new folder; add --resume or choose another folder"
    )
    error = refuse(capsys, *arguments(folder, "low", tmp_path / "a", "--set", "network.weight_bits=7"))
    assert "found network.weight_bits = 7, expected 1, 2, 3, 4 or 32" in error
    error = refuse(capsys, *arguments(folder, "low", tmp_path / "b", "--start", str(tmp_path)))
    assert f"checkpoint '{tmp_path / 'final.pt'}': found no such file, expected one; check the folder" in error
    error = refuse(capsys, *arguments(folder, "float", tmp_path / "c", "--resume"))
    assert f"checkpoint '{tmp_path / 'c' / 'checkpoint.pt'}': found no such file, expected one" in error
    assert "train: found no RECIPE, expected one; Example: lqcompile train" in refuse(capsys, "train")
    assert "train: found no --data, expected one" in refuse(capsys, "train", "fashion-mnist-float")
    error = refuse(capsys, "train", "fashion-mnist-float", "--data", str(folder), "-o", str(tmp_path / "d"))
    assert error.endswith(
        "no such file; install the Debian package dataset-fashion-mnist or give the folder with its files"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "none.py:make",
            "network 'none.py:make': found no file 'none.py', expected one with the network; check the path",
        ),
        ("own.py:Net", "network 'own.py:Net': found no 'Net' in the file; it has number, with_argument"),
        ("own.py:number", "network 'own.py:number': found int, expected a torch.nn.Module"),
        (
            "broken.py:Net",
            "network 'broken.py:Net': found SyntaxError: invalid syntax (broken.py, line 1), expected code",
        ),
        (
            "own.py:with_argument",
            "missing 1 required positional argument: 'classes', expected code that runs and makes the network without ",
        ),
        ("own.txt:number", "network 'own.txt:number': found a file that is not Python, expected FILE.py:NAME"),
        ("resnet19", "network 'resnet19': unknown; known networks:"),
    ],
)
def test_networks_that_cannot_be_made(folder, tmp_path, monkeypatch, capsys, name, message):
    monkeypatch.chdir(tmp_path)
    for file in ("own.py", "own.txt"):
        Path(file).write_text("def number():\n    return 1\n\ndef with_argument(classes):\n    return classes\n")
    Path("broken.py").write_text("def Net(:\n")
    assert message in refuse(capsys, *arguments(folder, "float", "run", "--set", f'network.name="{name}"'))


def test_options_of_a_network(folder, tmp_path, capsys):
    call = arguments(folder, "float", tmp_path / "run", "--set", "network.name=vgg_small")
    error = refuse(capsys, *call, "--set", "network.options.wide=2.0")
    assert "network.options: found ['wide'], expected arguments of lqcompile.models.create (" in error
    for part in ("train", "test"):
        np.savez(tmp_path / f"{part}.npz", images=np.zeros((32, 8, 9), np.uint8), labels=np.zeros(32, int))
    shutil.copy(folder / "float.toml", tmp_path)
    call = arguments(tmp_path, "float", tmp_path / "run", "--set", "network.name=vgg_small")
    assert "network 'vgg_small': found images of 8x9, expected square ones; use a network of your own" in refuse(
        capsys, *call
    )


def test_the_list_of_recipes(capsys):
    assert main(["train", "--list", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["recipes"]
    assert [entry["name"] for entry in entries] == recipes.names()
    assert main(["train", "--list"]) == 0
    text = capsys.readouterr().out
    assert all(entry["name"] in text and entry["description"] in text for entry in entries)


def test_tensorboard_is_an_option(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    error = refuse(capsys, *arguments(folder, "float", tmp_path / "run", "--tensorboard"))
    assert error == (
        "TensorBoard log: found no tensorboard, expected it to be installed; pip install tensorboard, or leave the "
        "option out: log.csv has the same figures"
    )


@pytest.mark.parametrize("package", ["torch", "pydantic"])
def test_without_the_extra(package, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("lqcompile.training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    error = refuse(capsys, "train", "--list")
    assert error == f"lqcompile train: found no {package}, expected the training extra; pip install 'lqcompile[train]'"
