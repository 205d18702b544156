"""A loaded network: batches, threads, single regions, and inputs that do not fit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from compiling import X86, check_equal, compile_plan, missing
from models import classifier_model, random_input
from plans import PlanBuilder, random_affine, random_low_bit, random_quantizer

from lqcompile.artifact import read_artifact, write_artifact
from lqcompile.build import build
from lqcompile.errors import ArtifactError, InputError
from lqcompile.graph.plan import AddValue, Geometry
from lqcompile.runtime import CompiledModel, load, set_threads
from lqcompile.target import find

RUNNABLE = [name for name in X86 if not missing(find(name))]

pytestmark = pytest.mark.skipif(not RUNNABLE, reason="this CPU runs none of the x86 targets")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, onnx.ModelProto]:
    folder = tmp_path_factory.mktemp("network")
    # Wide enough that its layers run in threads.
    model = classifier_model(np.random.default_rng(8), shape=(3, 16, 16), channels=(32, 64))
    onnx.save(model, folder / "model.onnx")
    build(folder / "model.onnx", target=RUNNABLE[0], output=folder / "model.tar")
    return folder / "model.tar", model


@pytest.fixture
def network(artifact: tuple[Path, onnx.ModelProto]) -> CompiledModel:
    return load(artifact[0])


def test_a_batch_is_its_samples(network: CompiledModel, artifact: tuple[Path, onnx.ModelProto]) -> None:
    feeds = random_input(np.random.default_rng(1), artifact[1], batch=5)
    together = network.run(feeds)
    for index in range(5):
        alone = network.run({name: array[index : index + 1] for name, array in feeds.items()})
        for name, array in alone.items():
            np.testing.assert_array_equal(array[0], together[name][index])
    assert len({array.tobytes() for array in next(iter(together.values()))}) == 5


def test_a_bound_call_reads_and_writes_the_same_memory(
    network: CompiledModel, artifact: tuple[Path, onnx.ModelProto]
) -> None:
    rng = np.random.default_rng(9)
    first, second = (random_input(rng, artifact[1], batch=2) for _ in range(2))
    memory = {name: array.copy() for name, array in first.items()}
    call, outputs = network.bind(memory)
    for feeds in (first, second):
        for name, array in feeds.items():
            memory[name][...] = array
        call()
        for name, array in network.run(feeds).items():
            np.testing.assert_array_equal(outputs[name], array)


def test_threads_do_not_change_the_result(artifact: tuple[Path, onnx.ModelProto]) -> None:
    feeds = random_input(np.random.default_rng(2), artifact[1], batch=3)
    results = [load(artifact[0], threads=count).run(feeds) for count in (1, 2, 1)]
    for other in results[1:]:
        for name, array in results[0].items():
            np.testing.assert_array_equal(other[name], array)


def test_inputs_may_be_any_view(network: CompiledModel, artifact: tuple[Path, onnx.ModelProto]) -> None:
    (name, array), *_ = random_input(np.random.default_rng(3), artifact[1], batch=4).items()
    view = np.asfortranarray(np.repeat(array, 2, axis=0))[::2]
    assert not view.flags.c_contiguous
    for key, expected in network.run({name: array}).items():
        np.testing.assert_array_equal(network.run({name: view})[key], expected)


def test_ports_and_values(network: CompiledModel) -> None:
    assert [(port.name, port.shape, port.dtype) for port in network.inputs] == [("x", (3, 16, 16), "float32")]
    assert network.plan_values >= {"x"}
    assert len(network.outputs) == 1


def test_layer_runners_give_the_regions_in_order(
    network: CompiledModel, artifact: tuple[Path, onnx.ModelProto]
) -> None:
    feeds = random_input(np.random.default_rng(4), artifact[1], batch=2)
    runners = network.layer_runners(feeds)
    assert list(runners) == [region["name"] for region in network.variant["regions"]]
    for runner in runners.values():
        runner()


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "^input 'x': missing, expected float32"),
        ({"y": np.zeros((1, 3, 16, 16), np.float32)}, "^input 'y': unknown; the model's inputs are x$"),
        ({"x": np.zeros((1, 3, 16, 16))}, "^input 'x': found dtype float64, expected float32"),
        ({"x": np.zeros((1, 3, 16, 15), np.float32)}, r"^input 'x': found float32\[1, 3, 16, 15\], expected"),
        ({"x": np.zeros((0, 3, 16, 16), np.float32)}, "^input 'x': found no samples"),
    ],
)
def test_wrong_inputs_are_refused(network: CompiledModel, feeds: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        network.run(feeds)


def test_no_threads_are_refused() -> None:
    with pytest.raises(InputError, match=r"^threads: found 0, expected at least 1$"):
        set_threads(0)


def test_a_library_that_does_not_load_names_the_artifact(
    artifact: tuple[Path, onnx.ModelProto], tmp_path: Path
) -> None:
    whole = read_artifact(artifact[0])
    members = {name: b"no library" if name.endswith(".so") else data for name, data in whole.members.items()}
    path = tmp_path / "broken.tar"
    write_artifact(path, whole.manifest, members)
    with pytest.raises(ArtifactError, match=r"^artifact '.*broken.tar': this TVM cannot load its library: "):
        load(path)


def test_formats_that_differ_are_reported(network: CompiledModel) -> None:
    """A value that is kept in two formats, one of which is spoilt behind the network's back."""
    plan, x = diamond(np.random.default_rng(5))
    model = compile_plan(plan, find(RUNNABLE[0])).load()
    entries = {(entry["value"], entry["kind"]): entry for entry in model.variant["tensors"]}
    value = next(value for value, kind in entries if kind == "bits" and (value, "f32") in entries)
    model.run({"x": x})
    spoilt = entries[value, "f32"]["stored"] = list(entries[value, "f32"]["stored"])
    spoilt[:2] = spoilt[1::-1]
    maker = next(region["name"] for region in model.variant["regions"] if value in region["writes"])
    with pytest.raises(ArtifactError, match=rf"^value '{value}': its bits and f32 formats differ; report this as a"):
        model.run_region(maker, {"x": x})


def diamond(rng: np.random.Generator):
    """Codes that a convolution reads as bits, and a residual sum two layers later as floats: plan and samples."""
    builder = PlanBuilder(rng, (32, 6, 6))

    def conv(source, stages, quantizer=None):
        geometry = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))
        return builder.contract(
            source, random_low_bit(rng, (32, 32, 3, 3), 1), geometry, stages, ((quantizer, False, ()),)
        )[0]

    start = builder.quantized_input(random_quantizer(rng, 2))
    scale = (random_affine(rng, 32, 0.05),)
    first = conv(start, scale, random_quantizer(rng, 2))
    second = conv(first, scale, random_quantizer(rng, 2))
    end = conv(second, (random_affine(rng, 32, 0.05), AddValue(name=start.name)))
    return builder.finish(end), rng.normal(size=(2, 32, 6, 6)).astype(np.float32)


def test_a_region_is_given_only_what_it_reads() -> None:
    """The bits of `start` are dead when the last layer runs, and its other input lies in their place."""
    plan, x = diamond(np.random.default_rng(9))
    model = compile_plan(plan, find(RUNNABLE[0])).load()
    check_equal(plan, model, x)
    entries = model.variant["tensors"]
    last = next(region for region in model.variant["regions"] if region["name"] == plan.regions[-1].name)
    dead = [i for i, entry in enumerate(entries) if entry["value"] in last["reads"] and i not in last["places"]]
    assert [entries[index]["kind"] for index in dead] == ["bits"]


def test_more_threads_than_processors_are_refused() -> None:
    most = int(os.environ["TVM_NUM_THREADS"])
    message = rf"^threads: found {most + 1}, expected at most {most}, the processors that this process may use; ask for"
    with pytest.raises(InputError, match=message):
        set_threads(most + 1)
    set_threads(most)


def test_running_leaves_the_processors_of_a_program_to_it(artifact: tuple[Path, onnx.ModelProto]) -> None:
    script = (
        "import os, sys\nbefore = os.sched_getaffinity(0)\n"
        "import numpy as np\nfrom lqcompile import cpu, runtime\n"
        "model = runtime.load(sys.argv[1])\nport = model.inputs[0]\n"
        "model.run({port.name: np.zeros((1, *port.shape), np.float32)})\n"
        "assert os.sched_getaffinity(0) == before\nassert runtime._threads == cpu.cores()\n"
        "with runtime.using_threads(1):\n    assert runtime._threads == 1\n"
        "assert runtime._threads == cpu.cores()\n"
        "runtime.set_threads(1)\nruntime.load(sys.argv[1])\nassert runtime._threads == 1\n"
    )
    subprocess.run([sys.executable, "-c", script, str(artifact[0])], check=True, timeout=60)
