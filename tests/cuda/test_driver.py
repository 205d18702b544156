"""What goes wrong on a GPU, one clear line each; the driver is made up (tests/gpu/driver.cpp)."""

from __future__ import annotations

import gc
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import emulated_gpu
import numpy as np
import pytest

from lqcompile.cuda import driver, engine
from lqcompile.cuda.driver import Gpu
from lqcompile.cuda.model import runs
from lqcompile.errors import DeviceError, InputError, LQCompileError
from lqcompile.runtime import load


def message(error: pytest.ExceptionInfo[LQCompileError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LIBRARY", "libcuda.so.0")
    with pytest.raises(DeviceError) as error:
        Gpu()
    assert message(error) == (
        "CUDA: found no NVIDIA driver (libcuda.so.0), expected one for CUDA 13 or later; install it, or run on a "
        "machine with a GPU"
    )


def test_no_gpu(gpu: emulated_gpu.Driver, artifact: Path) -> None:
    gpu.set(devices=0)
    with pytest.raises(DeviceError, match=r"^CUDA: the driver found no GPU, expected one; look at 'nvidia-smi'"):
        load(artifact)


def test_a_driver_that_is_too_old(gpu: emulated_gpu.Driver, artifact: Path) -> None:
    gpu.set(driver=12060)
    with pytest.raises(DeviceError) as error:
        load(artifact)
    assert message(error) == ("CUDA: found a driver for CUDA 12.6, expected 13.0 or later; update the NVIDIA driver")


def test_a_driver_that_does_not_start(gpu: emulated_gpu.Driver, artifact: Path) -> None:
    gpu.set(init=803)
    with pytest.raises(DeviceError) as error:
        load(artifact)
    assert message(error) == (
        "CUDA: the driver does not start: found error 803 (made up), expected none; look at 'nvidia-smi', and restart "
        "the machine after an update of the driver"
    )


def test_ptx_that_is_too_new(gpu: emulated_gpu.Driver, artifact: Path) -> None:
    gpu.set(load=222)
    with pytest.raises(DeviceError) as error:
        load(artifact)
    assert message(error) == (
        f"artifact '{artifact}': found PTX of a newer CUDA than the driver's (13.0), expected one that it knows; "
        "update the NVIDIA driver, or build with a --target of machine code for this GPU"
    )


def test_code_that_does_not_fit_the_memory(gpu: emulated_gpu.Driver, artifact: Path) -> None:
    gpu.set(load=2)
    with pytest.raises(DeviceError) as error:
        load(artifact)
    assert message(error) == (
        "CUDA (cuModuleLoadData): found the memory of the GPU full, expected room; close other programs, or run fewer "
        "samples at a time"
    )


def test_a_gpu_for_which_there_is_no_code(gpu: emulated_gpu.Driver, artifact: Path) -> None:
    gpu.set(major=7, minor=5)
    with pytest.raises(DeviceError) as error:
        load(artifact)
    assert message(error) == (
        "artifact for target 'cuda-h200': found code for sm_90a, expected code for compute capability 7.5 "
        "(Emulated GPU); build the model again with a --target for this GPU"
    )


def test_code_that_the_driver_refuses(gpu: emulated_gpu.Driver, artifact: Path) -> None:
    gpu.set(load=209)
    expected = "found no code for compute capability 9.0 (Emulated GPU), expected it; build the model again with a"
    with pytest.raises(DeviceError, match=re.escape(f"artifact '{artifact}': {expected} --target for this GPU")):
        load(artifact)


def test_too_little_memory(gpu: emulated_gpu.Driver, artifact: Path) -> None:
    gpu.set(free=gpu.bytes_in_use + 1000)
    with pytest.raises(DeviceError) as error:
        load(artifact)
    assert re.fullmatch(
        r"GPU Emulated GPU: found no \d\.\d MB of free memory, expected them for the model; close other programs, or "
        "run fewer samples at a time",
        message(error),
    )


def test_a_kernel_that_fails(gpu: emulated_gpu.Driver, artifact: Path) -> None:
    model = load(artifact)
    gpu.set(launch=719)
    with pytest.raises(DeviceError) as error:
        model.run({"x": np.zeros((1, 8, 5, 5), np.float32)})
    assert message(error) == (
        "CUDA (cuLaunchKernel): found error 719 (unspecified launch failure), expected none; report this as a bug"
    )
    gpu.set(launch=0)
    model.run({"x": np.zeros((1, 8, 5, 5), np.float32)})  # the stream is not left in a capture


def test_a_call_of_another_thread(gpu: emulated_gpu.Driver, artifact: Path) -> None:
    call, _ = load(artifact).bind({"x": np.zeros((1, 8, 5, 5), np.float32)})
    with ThreadPoolExecutor(1) as pool:
        pool.submit(call).result()


def test_memory_that_is_full_halfway_is_given_back(gpu: emulated_gpu.Driver, artifact: Path) -> None:
    model = load(artifact)
    before = gpu.bytes_in_use
    free = model.engine._arena_bytes + 100
    model.engine.gpu.free_bytes = lambda: 10 * free  # type: ignore[method-assign]  # before another program took some
    gpu.set(free=before + free)
    with pytest.raises(DeviceError, match=r"found no 0\.0 MB of free memory, expected them for the model"):
        model.run({"x": np.zeros((1, 8, 5, 5), np.float32)})
    assert gpu.bytes_in_use == before


def test_no_memory_is_some_memory(gpu: emulated_gpu.Driver) -> None:
    device = Gpu()
    device.enter()
    device.free(device.allocate(0))


def test_batches_are_as_large_as_the_memory_allows(gpu: emulated_gpu.Driver, artifact: Path) -> None:
    x = np.random.default_rng(4).normal(size=(7, 8, 5, 5)).astype(np.float32)
    model = load(artifact)
    whole = model.run({"x": x})
    assert model.engine._memory.samples == 7
    model = load(artifact)
    each = model.engine._arena_bytes + 4 * (8 * 5 * 5 + int(np.prod(model.outputs[0].shape)))
    gpu.set(free=gpu.bytes_in_use + int(3.5 * each / engine.MEMORY_SHARE))
    parts = model.run({"x": x})
    assert model.engine._memory.samples == 3
    for name, array in whole.items():
        np.testing.assert_array_equal(parts[name], array)


def test_a_model_gives_its_memory_back(gpu: emulated_gpu.Driver, artifact: Path) -> None:
    gc.collect()
    before = gpu.bytes_in_use
    model = load(artifact)
    model.run({"x": np.zeros((2, 8, 5, 5), np.float32)})
    assert gpu.bytes_in_use > before
    held = model.engine
    del model
    held.close()
    assert gpu.bytes_in_use == before
    with pytest.raises(InputError, match=r"^model: found it closed, expected an open one; load it again$"):
        held.bind([np.zeros((1, 200), np.float32), np.zeros((1, 400), np.float32)])
    del held
    again = load(artifact)
    del again
    gc.collect()
    assert gpu.bytes_in_use == before


def test_no_samples(gpu: emulated_gpu.Driver, artifact: Path) -> None:
    with pytest.raises(InputError, match=r"found no samples, expected at least one"):
        load(artifact).engine.bind([np.zeros((0, 200), np.float32), np.zeros((0, 400), np.float32)])


def test_steps_must_be_bound_again_after_a_larger_batch(gpu: emulated_gpu.Driver, artifact: Path) -> None:
    x = np.random.default_rng(4).normal(size=(9, 8, 5, 5)).astype(np.float32)
    model = load(artifact)
    calls = model.layer_runners({"x": x})
    for call in calls.values():
        call()
    model.run({"x": x})
    with pytest.raises(InputError, match=r"found a larger batch since they were bound, expected none; bind them again"):
        next(iter(calls.values()))()


@pytest.mark.parametrize(
    ("architecture", "capability", "expected"),
    [
        ("sm_80", (8, 0), True),
        ("sm_80", (8, 9), True),
        ("sm_87", (8, 6), False),
        ("sm_80", (9, 0), False),
        ("sm_90a", (9, 0), True),
        ("sm_90a", (10, 0), False),
        ("compute_80", (12, 0), True),
        ("compute_80", (7, 5), False),
        ("avx2", (9, 0), False),
    ],
)
def test_what_runs_where(architecture: str, capability: tuple[int, int], expected: bool) -> None:
    assert runs(architecture, capability) is expected
