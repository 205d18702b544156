"""benchmarks/gpu.py and its parts: on an emulated GPU, at small sizes, and what it says of what is not there."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import emulated_gpu
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lqcompile.cuda import driver, nvrtc
from lqcompile.errors import InputError
from lqcompile.runtime import load

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from gpu_series import gemm, peaks, tables, whole  # noqa: E402
from gpu_series.clock import in_turns, torch_timer  # noqa: E402
from gpu_series.peak_kernels import PEAKS, PRODUCTS, architecture, peaks_of, source  # noqa: E402
from gpu_series.results import Deadline, Results, read_results  # noqa: E402

MACHINE = {
    "gpu": "Emulated GPU",
    "driver": "13.0",
    "target": "cuda-h200",
    "select": "table",
    "lqcompile": "0.1.0",
    "torch": "none",
}


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_script", ROOT / "benchmarks" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------------- peaks


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_peak_kernels_are_loops_of_their_instruction(capability: tuple[int, int], tmp_path: Path) -> None:
    kernels = peaks_of(capability)
    assert len(kernels) == (len(PEAKS) if capability == (9, 0) else len(PEAKS) - 3)
    code = nvrtc.compile_cuda(source(kernels), architecture(capability))
    (tmp_path / "peaks.cubin").write_bytes(code.data)
    beside = next(iter(Path(sys.prefix).glob("lib/python*/site-packages/nvidia/cu13/bin/nvdisasm")), None)
    program = shutil.which("nvdisasm") or beside
    if program is None:
        pytest.skip("there is no nvdisasm (pip install nvidia-cuda-nvdisasm)")
    listing = subprocess.run(
        [program, "-c", tmp_path / "peaks.cubin"], capture_output=True, text=True, check=True
    ).stdout
    parts = re.split(r"\.section\s+\.text\.(\w+)", listing)[1:]
    sass = dict(zip(parts[::2], parts[1::2], strict=True))
    for peak in kernels:
        usage = code.usage[peak.name]
        assert (usage.stack_bytes, usage.spilled_bytes) == (0, 0), peak.name
        loops = bodies(sass[peak.name])
        found = max((body.count(peak.sass) for body in loops), default=0)
        assert found >= peak.copies, (peak.name, found)
        # In the longest loop of products there is next to nothing else; a wgmma carries moves of its descriptors.
        if peak in PRODUCTS:
            body = max(loops, key=lambda text: text.count(peak.sass))
            others = [line for line in body.splitlines() if re.search(r"\b(LDG|STG|LDL|STL|LDS|STS)\b", line)]
            assert not others, (peak.name, others)


def bodies(sass: str) -> list[str]:
    """What stands between a label and a jump back to it."""
    places = {found[1]: found.start() for found in re.finditer(r"^(\.L_x_\d+):", sass, re.M)}
    jumps = re.finditer(r"BRA[^\n]*?`\((\.L_x_\d+)\)", sass)
    return [sass[places[jump[1]] : jump.start()] for jump in jumps if places.get(jump[1], len(sass)) < jump.start()]


class FakeGpu:
    """A GPU that does a billion rounds in a second on each multiprocessor, whatever the kernel."""

    multiprocessors, capability = 2, (9, 0)

    def __init__(self) -> None:
        self.held: dict[int, int] = {}
        self.launches: list[driver.Launch] = []

    def enter(self) -> None: ...

    def load(self, code: bytes, subject: str) -> str:
        return "module"

    def unload(self, module: str) -> None: ...

    def function(self, module: str, name: str) -> str:
        return name

    def free_bytes(self) -> int:
        return 1 << 30

    def allocate(self, size: int) -> int:
        self.held[len(self.held) + 1] = size
        return len(self.held)

    def free(self, pointer: int) -> None:
        self.held[pointer] = 0

    def write(self, pointer: int, array: np.ndarray) -> None:
        assert array.nbytes == self.held[pointer]

    def wait(self) -> None: ...

    def capture(self, launches: list[driver.Launch]) -> list[driver.Launch]:
        self.launches += launches
        return launches

    def seconds(self, graph: list[driver.Launch]) -> float:
        assert all(self.held[pointer] for launch in graph for pointer in launch.pointers)
        return graph[0].samples * 1e-9

    def drop(self, graph: list[driver.Launch]) -> None: ...


def test_peaks_are_work_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "compile_cuda", lambda code, machine: nvrtc.DeviceCode(data=b"", usage={}))
    gpu, said = FakeGpu(), []
    found = peaks.measure_peaks(gpu, 3, said.append)
    assert set(found) == {peak.name for peak in PEAKS} and len(said) == len(PEAKS) + 1
    for peak in PRODUCTS:
        blocks = 2 * (1 if peak.hopper else peaks.RESIDENT)
        assert found[peak.name]["best"] == pytest.approx(peak.macs * blocks * 1e9)
        assert found[peak.name]["unit"] == "MAC/s"
    each = 16 * 8 * 256 * 2 * peaks.MEMORY_BLOCKS
    assert found["read_memory"]["best"] == pytest.approx(each * 1e9)
    assert found["copy_memory"]["best"] == pytest.approx(2 * each * 1e9)
    assert not any(gpu.held.values()), "memory is given back"
    # A block of 8 warps does 32 mma.m16n8k256 in a round.
    assert next(peak.macs for peak in PRODUCTS if peak.name == "b1_mma") == 8 * 32 * 16 * 8 * 256


# ---------------------------------------------------------------------- products


PEAK_VALUES = {
    "b1_mma": {"what": "b1", "unit": "MAC/s", "best": 4e15, "median": 3e15},
    "b1_wgmma": {"what": "b1", "unit": "MAC/s", "best": 8e15, "median": 8e15},
    "int8_mma": {"what": "int8", "unit": "MAC/s", "best": 1e15, "median": 1e15},
    "fp16_mma": {"what": "fp16", "unit": "MAC/s", "best": 5e14, "median": 5e14},
    "read_memory": {"what": "bytes read", "unit": "bytes/s", "best": 4e12, "median": 4e12},
}


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of artifacts of products of 64, of emulated kernels."""
    folder = tmp_path_factory.mktemp("products")
    patch = pytest.MonkeyPatch()
    patch.setattr("lqcompile.cuda.build.compile_cuda", emulated_gpu.compile_emulated)
    for bits in gemm.BITS:
        gemm.gemm_artifact(64, bits, "cuda-h200", folder)
    patch.undo()
    return folder


def test_products_equal_numpy_and_are_timed(
    gpu: emulated_gpu.Driver, products: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gemm, "SECONDS", 0.0)  # each once in a graph
    cells = gemm.measure_gemm(None, 64, "cuda-h200", products, 3, PEAK_VALUES)
    assert list(cells) == ["W1A1", "W2A2"]
    for cell in cells.values():
        assert (cell["wrong_codes"], cell["checked"], cell["macs"]) == (0, 4096, 64**3)
        assert cell["ms"] > 0
        assert cell["of_peak"] == gemm.of_peak(cell, PEAK_VALUES)
    assert [cell["pairs"] for cell in cells.values()] == [1, 4]


def test_a_wrong_product_is_counted(gpu: emulated_gpu.Driver, products: Path) -> None:
    path = products / "gemm_64_w2a2_cuda-h200.tar"
    file = onnx.load(path.with_suffix(".onnx"))
    planes = next(tensor for tensor in file.graph.initializer if tensor.name == "planes")
    changed = numpy_helper.to_array(planes).copy()
    changed[5, 1] ^= 255  # all weights of one output channel
    planes.CopyFrom(numpy_helper.from_array(changed, "planes"))
    assert 0 < gemm.wrong_codes(load(path), file) <= 64


def test_all_codes_occur() -> None:
    file = gemm.gemm_model(256, 2, 2, seed=3)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in file.graph.initializer}
    rng = np.random.default_rng(4)
    bits = np.unpackbits(arrays["planes"], axis=2, bitorder="little").astype(np.int64) * 2 - 1
    sums = np.einsum("oi,oik->ok", arrays["basis"].astype(np.int64), bits) @ rng.integers(0, 4, (256, 256))
    shares = np.bincount(np.searchsorted(arrays["outer"], sums).reshape(-1), minlength=4) / sums.size
    assert shares.min() > 0.05


def test_parts_of_the_peak_are_those_of_the_instruction() -> None:
    cell = {"kernel": "b1mma", "macs": 1e12, "pairs": 4, "ms": 1.0}
    assert gemm.of_peak(cell, PEAK_VALUES) == pytest.approx(4e15 / 8e15), "the faster of mma and wgmma counts"
    assert gemm.of_peak(cell | {"kernel": "torch._int_mm"}, PEAK_VALUES) == pytest.approx(1.0)
    assert gemm.of_peak(cell | {"kernel": "popcount"}, PEAK_VALUES) is None
    assert gemm.of_peak(cell, {}) is None


def test_torch_is_timed_by_events_over_a_graph() -> None:
    log: list[str] = []

    class Graph:
        def replay(self) -> None:
            log.append("replay")

    class Capture:
        def __init__(self, graph: Graph) -> None: ...
        def __enter__(self) -> None:
            log.append("capture")

        def __exit__(self, *arguments: object) -> None:
            log.append("captured")

    class Event:
        def __init__(self, *, enable_timing: bool) -> None: ...
        def record(self) -> None:
            log.append("record")

        def elapsed_time(self, other: object) -> float:
            return 6.0

    cuda = types.SimpleNamespace(CUDAGraph=Graph, graph=Capture, Event=Event, synchronize=lambda: log.append("wait"))
    seconds = torch_timer(types.SimpleNamespace(cuda=cuda), lambda: log.append("call"), repeats=2)
    assert log == ["call"] * 3 + ["wait", "capture", "call", "call", "captured"]
    log.clear()
    assert seconds() == pytest.approx(0.003)
    assert log == ["record", "replay", "record", "wait"]


def test_turns_change_their_order() -> None:
    order: list[str] = []

    def timer(name: str, seconds: float) -> Callable[[], float]:
        return lambda: order.append(name) or seconds

    times = in_turns({"a": timer("a", 1.0), "b": timer("b", 2.0)}, 2)
    assert order == ["b", "a", "a", "b", "b", "a"], "one round before the others"
    assert (times["a"].median_ms, times["b"].median_ms, times["a"].readings) == (1000.0, 2000.0, 2)


# ---------------------------------------------------------------------- the program


def test_parts_go_on_where_they_stopped(
    gpu: emulated_gpu.Driver,
    products: Path,
    script: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A small product and a network that is made up; what is asked for is measured once, whatever stops it."""
    results, counted = tmp_path / "results.json", []
    monkeypatch.setattr(script, "GEMM_ROUNDS", 1)
    monkeypatch.setattr(gemm, "SECONDS", 0.0)
    monkeypatch.setattr(script, "measure_peaks", lambda gpu, rounds, tell: PEAK_VALUES)
    network = {"batch": 1, "rounds": 3, "ours": {}, "peers": {}, "absent": {"torch-fp16": "found none; install it"}}
    network["ours"] = {"W2A2": {"ms": 0.5, "uncertainty": 0.01, "ratio": {}, "layers": []}}
    monkeypatch.setattr(script.whole, "artifact", lambda *arguments: Path("none"))
    monkeypatch.setattr(script.whole, "measure_network", lambda *arguments: counted.append(arguments[2]) or network)
    common = ["--results", str(results), "--cache", str(products), "--sizes", "64", "--networks", "vgg_small"]
    common += ["--target", "cuda-h200", "--batches", "1", "32"]
    assert script.main(["--part", "networks", *common, "--limit", "0"]) == script.UNFINISHED
    assert script.main(["--part", "gemm", *common]) == 0
    assert script.main([*common]) == 0
    assert script.main([*common]) == 0
    assert counted == [1, 32]
    data = read_results(results)
    assert data["machine"]["gpu"] == "Emulated GPU" and data["machine"]["driver"] == "13.0"
    assert set(data["gemm"]) == {"64"} and set(data["networks"]) == {"vgg_small 1", "vgg_small 32"}
    capsys.readouterr()
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- gpu: begin -->\nold\n<!-- gpu: end -->\nafter\n")
    assert script.main(["--part", "tables", *common, "--write", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n<!-- gpu: begin -->\n\nEmulated GPU, driver for CUDA 13.0, 20")
    assert text.endswith("\n<!-- gpu: end -->\nafter\n") and "old" not in text
    assert "built for `cuda-h200`, kernels chosen by the cost table, torch" in text
    assert "| b1 | 16000 TOPS | 16000 TOPS |" in text and "| bytes read | 4000 GB/s | 4000 GB/s |" in text
    assert "| vgg_small | 32 | W2A2 | 0.500 ± 1.0 % |" in text and "- not there: torch-fp16: found none" in text
    assert script.main(["--part", "tables", *common, "--write", str(results)]) == 1
    assert "--write: " in capsys.readouterr().err


def test_what_needs_no_gpu_is_made_once(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def make(model: Path, *, target: str, output: Path, select: str, batch: int | None = None) -> None:
        assert (target, select) == ("cuda-h200", "table")
        made.append(output.relative_to(tmp_path))
        output.touch()

    def model_file(network: str, weight_bits: int, act_bits: int, image_size: int | None, folder: Path) -> Path:
        assert (network, weight_bits, act_bits, image_size) == ("vgg_small", 1, 2, 16)
        folder.mkdir()
        return folder / "model_31_15.onnx"

    monkeypatch.setattr(driver, "LIBRARY", "libcuda.so.0")
    monkeypatch.setattr(gemm, "build", make)
    monkeypatch.setattr(whole, "build", make)
    monkeypatch.setattr(whole, "model_file", model_file)
    arguments = ["--part", "prepare", "--cache", str(tmp_path), "--sizes", "64", "--networks", "vgg_small"]
    for _ in range(2):
        assert script.main([*arguments, "--bits", "1/2", "--image-size", "16"]) == 0
    names = ["gemm_64_w1a1_cuda-h200.tar", "gemm_64_w2a2_cuda-h200.tar", "vgg_small_16_w1a2/cuda-h200.tar"]
    assert made == [Path(name) for name in names]


def test_networks_are_timed_whole_and_by_layer(gpu: emulated_gpu.Driver, products: Path) -> None:
    """On a product in place of a network: what `whole` does with any artifact."""
    path = products / "gemm_64_w1a1_cuda-h200.tar"
    shutil.copy(path.with_suffix(".onnx"), products / "model_7_7.onnx")
    cell = whole.measure_network({"W1A1": path}, ["tensorrt-fp16"], 2, 3, PEAK_VALUES, lambda text: None)
    assert list(cell["absent"]) == ["tensorrt-fp16"] and not cell["peers"]
    own = cell["ours"]["W1A1"]
    assert own["ms"] > 0 and own["ratio"] == {}
    (layer,) = [row for row in own["layers"] if "kernel" in row]
    assert layer["macs"] == 2 * 64**3 and layer["ms"] > 0
    assert all(row["bytes"] > 0 and row["of_memory"] > 0 for row in own["layers"])


def test_tables_of_nothing_say_so() -> None:
    text = tables.markdown({"machine": MACHINE, "peaks": {}, "gemm": {}, "networks": {}})
    for part in ("Peaks", "Square products", "Networks"):
        assert f"{part}: not measured." in text


def test_results_of_another_machine_are_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    Results(path, MACHINE).add("peaks", "b1_mma", {}, 1.0)
    assert Results(path, MACHINE).has("peaks", "b1_mma")
    message = r"found those of gpu 'Emulated GPU', here 'Another', expected this machine's; give another --results$"
    with pytest.raises(InputError, match=message):
        Results(path, MACHINE | {"gpu": "Another"})


@pytest.mark.parametrize(
    ("content", "found"), [("no", "found no JSON"), ("[]", "found other JSON"), ("{}", "found other")]
)
def test_other_files_are_no_results(content: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError, match=f"results '.+': {found}.*, expected what benchmarks/gpu.py wrote"):
        read_results(tmp_path / "results.json")


def test_nothing_begins_that_would_end_too_late(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json", MACHINE)
    assert Deadline(60.0, results).allows("gemm")
    results.add("gemm", "4096", {}, seconds=100.0)
    deadline = Deadline(60.0, Results(tmp_path / "results.json", MACHINE))
    assert not deadline.allows("gemm") and deadline.allows("networks")


def test_without_a_gpu_it_says_so_in_one_line(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(driver, "LIBRARY", "libcuda.so.0")
    assert script.main(["--part", "peaks", "--results", str(tmp_path / "results.json")]) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert re.fullmatch(r"benchmarks/gpu.py: CUDA: found no NVIDIA driver \(libcuda.so.0\), expected .+\n", errors)
    assert not list(tmp_path.iterdir())


PYTHON = """#!/bin/bash
# A Python that says what it is called with; products need three calls, and networks fail.
case "$*" in *"--part target"*) echo cuda-x; exit ;; esac
echo "called with $*"
case "$*" in
  *"--part gemm"*) echo x >> "$FOLDER/calls"; [ $(wc -l < "$FOLDER/calls") -ge 3 ] || exit 3 ;;
  *"--part networks"*) exit 1 ;;
esac
"""


STEPS = ("cases", "tests", "gemm", "networks", "model", "tables", "odd")


def test_a_session_goes_on_until_parts_are_done_and_names_what_failed(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    folder = tmp_path / "results"
    environment = os.environ | {"PYTHON": str(python), "FOLDER": str(folder), "OPTIONS": "--bits 2/2"}
    command = ["bash", str(ROOT / "benchmarks" / "gpu_session.sh"), *STEPS]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 1
    repeat = f"next: read {folder}/networks.log; 'bash benchmarks/gpu_session.sh networks odd' repeats what failed"
    assert done.stdout.endswith(f"are in {folder}\nfailed: networks odd\n{repeat}\n")
    called = f"called with benchmarks/gpu.py --results {folder}/results.json --part"
    assert (folder / "gemm.log").read_text() == f"{called} gemm --bits 2/2\n" * 3
    assert (folder / "networks.log").read_text() == f"{called} networks --bits 2/2\n"
    assert (folder / "tables.log").read_text() == f"{called} tables --bits 2/2\n"
    checked = f"called with benchmarks/gpu_series/prepared.py check {folder}/cases\n"
    assert (
        folder / "tests.log"
    ).read_text() == f"{checked}called with -m pytest -q tests/on_gpu -k not networks_equal\n"
    made = f"called with benchmarks/gpu_series/prepared.py make {folder}/cases --target cuda-x cuda-ptx\n"
    assert (folder / "cases.log").read_text() == made
    assert "bench lqcompile/data/fashion_mnist_w2a2.onnx --target cuda-x" in (folder / "model.log").read_text()
    assert "found step 'odd', expected setup, cases, tests" in (folder / "odd.log").read_text()
