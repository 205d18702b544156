"""Running an artifact: TVM's runtime and NumPy are all it takes."""

from __future__ import annotations

import functools
import importlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm_ffi

from lqcompile import cpu, layout
from lqcompile.artifact import read_artifact, select_variant
from lqcompile.errors import ArtifactError, InputError
from lqcompile.inputs import check_inputs
from lqcompile.tvm_runtime import load_module

Array = npt.NDArray[Any]

ALIGNMENT = 64

LOADERS = {"cuda": "lqcompile.cuda.model"}
"""Modules with a function `load_model`, for machines that are no CPUs."""

_threads: int | None = None
"""Threads of TVM's pool; None until they are set."""


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or output: `shape` is that of one sample."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def from_manifest(cls, entry: Mapping[str, Any]) -> Port:
        """The port that an entry of a manifest's inputs or outputs describes."""
        return cls(name=entry["name"], shape=tuple(entry["shape"]), dtype=entry["dtype"])


class CompiledModel:
    """A compiled network, loaded.

    Every call takes any number of samples; they run one after another through the whole network.

    Args:
        manifest: of the artifact.
        variant: one of the manifest's.
        library: its functions.
        params: its parameters, as `aligned` makes them.
    """

    def __init__(
        self, manifest: dict[str, Any], variant: dict[str, Any], library: Any, params: npt.NDArray[np.uint8]
    ) -> None:
        self.manifest = manifest
        self.variant = variant
        self.inputs = [Port.from_manifest(entry) for entry in manifest["inputs"]]
        self.outputs = [Port.from_manifest(entry) for entry in manifest["outputs"]]
        self._run = library["run"]
        self._sums = library["sums"] if variant["sums"] else None
        self._arena = aligned(variant["arena_bytes"])
        self._params = params
        self._memory = (tvm_ffi.from_dlpack(self._arena), tvm_ffi.from_dlpack(self._params))
        self._regions = {region["name"]: region for region in variant["regions"]}
        self._tensors: dict[str, list[layout.Entry]] = {}
        for entry in variant["tensors"]:
            self._tensors.setdefault(entry["value"], []).append(entry)

    @property
    def plan_values(self) -> set[str]:
        """Names of the values that `run_region` can read and write."""
        return set(self._tensors) | {port.name for port in self.inputs}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the network.

        Args:
            inputs: name to float32[N, *shape].

        Returns:
            name to float32[N, *shape].

        Raises:
            InputError: an input has a wrong name, shape or dtype.
        """
        call, results = self.bind(inputs)
        call()
        return results

    def bind(self, inputs: Mapping[str, Array]) -> tuple[Callable[[], None], dict[str, Array]]:
        """A call on fixed memory, for the shortest way in and out: it checks, allocates and copies nothing.

        Example:
            >>> call, outputs = model.bind({"x": images})  # doctest: +SKIP
            >>> images[...] = next_images  # doctest: +SKIP
            >>> call()  # and outputs holds the new results  # doctest: +SKIP

        Args:
            inputs: name to float32[N, *shape]; contiguous arrays are read where they are, others are copied now.

        Returns:
            The call, and name to float32[N, *shape], which every call overwrites.

        Raises:
            InputError: an input has a wrong name, shape or dtype.
        """
        arrays = check_inputs(self.inputs, inputs)
        count = len(next(iter(arrays.values())))
        results = {port.name: np.empty((count, *port.shape), np.float32) for port in self.outputs}
        ports = _ports([*(np.ascontiguousarray(array) for array in arrays.values()), *results.values()])
        return functools.partial(self._run, *ports, *self._memory, 0, self.variant["steps"]), results

    def layer_runners(self, inputs: Mapping[str, Array]) -> dict[str, Callable[[], None]]:
        """Calls that run one region each on the first sample, for timing.

        They work on what the regions before left in the arena: take them in order, each as often as wanted.
        """
        return {
            name: self.bind_steps(inputs, region["first"], region["last"]) for name, region in self._regions.items()
        }

    def bind_steps(self, inputs: Mapping[str, Array], first: int, last: int) -> Callable[[], None]:
        """A call that runs steps `first` to `last - 1` on the first sample: none where they are equal.

        Raises:
            InputError: an input has a wrong name, shape or dtype.
        """
        arrays = [np.ascontiguousarray(array[:1]) for array in check_inputs(self.inputs, inputs).values()]
        ports = _ports([*arrays, *(np.empty((1, *port.shape), np.float32) for port in self.outputs)])
        return functools.partial(self._run, *ports, *self._memory, first, last)

    def run_region(self, name: str, values: Mapping[str, Array]) -> dict[str, Array]:
        """Runs one region on given values, for verification.

        Args:
            name: of the region.
            values: value name to array[N, ...]: float32, level indices (uint8) or 8-bit codes.

        Returns:
            what the region writes, in the same encoding.
        """
        region = self._regions[name]
        count = len(values[region["reads"][0]])
        results: dict[str, list[Array]] = {value: [] for value in region["writes"]}
        outputs = [np.empty((1, *port.shape), np.float32) for port in self.outputs]
        for sample in range(count):
            inputs = self._place(region, values, sample)
            self._run(*_ports([*inputs, *outputs]), *self._memory, region["first"], region["last"])
            for value, collected in results.items():
                collected.append(self._read(value))
        return {value: np.stack(collected) for value, collected in results.items()}

    def run_sums(self, name: str, values: Mapping[str, Array]) -> npt.NDArray[np.int64]:
        """The integers that an exact contraction sums, before its epilogue.

        Returns:
            T int64[N, O, OH, OW] where the layer is one integer sum, else S_ij int64[N, Kw, Ka, O, OH, OW].
        """
        index = next(i for i, entry in enumerate(self.variant["sums"]) if entry["region"] == name)
        entry = self.variant["sums"][index]
        region = self._regions[name]
        out = aligned(4 * entry["elements"]).view(np.int32)
        handle = tvm_ffi.from_dlpack(out)
        collected = []
        for sample in range(len(values[region["reads"][0]])):
            self._place(region, values, sample)
            if self._sums is None:
                raise ArtifactError("artifact: holds no kernels for verification; build it again")
            self._sums(*self._memory, handle, index)
            collected.append(integers(out, entry))
        return np.stack(collected)

    def _place(self, region: dict[str, Any], values: Mapping[str, Array], sample: int) -> list[Array]:
        """Writes what the region reads into the arena; returns the graph inputs of one sample."""
        for index in region["places"]:
            entry = self.variant["tensors"][index]
            data = layout.encode(entry, values[entry["value"]][sample])
            self._arena[entry["offset"] : entry["offset"] + len(data)] = data
        inputs = []
        for port in self.inputs:
            if port.name in values:
                inputs.append(np.ascontiguousarray(values[port.name][sample : sample + 1]))
            else:
                inputs.append(np.zeros((1, *port.shape), np.float32))
        return inputs

    def _read(self, value: str) -> Array:
        # Bit planes tell all levels apart, the other formats only those of different value.
        entries = sorted(self._tensors[value], key=lambda entry: bool(entry["kind"] != "bits"))
        arrays = []
        for entry in entries:
            start = entry["offset"]
            arrays.append(layout.decode(entry, self._arena[start : start + layout.size_bytes(entry)]))
        for entry, array in zip(entries[1:], arrays[1:], strict=True):
            if not layout.agree(entry, array, arrays[0]):
                raise ArtifactError(
                    f"value '{value}': its {entries[0]['kind']} and {entry['kind']} formats differ; "
                    "report this as a bug"
                )
        # A view into the arena, which the next sample overwrites, where the layout is that of the logical array.
        return arrays[0].copy()


def load(path: str | Path, *, threads: int | None = None) -> CompiledModel:
    """Loads an artifact, picking the variant for this CPU, or for the GPU if it is for one.

    Args:
        path: of the artifact.
        threads: threads to run with (all models of a process share them); None for the number that was set last, at
            first one for each core.

    Raises:
        ArtifactError: the file is damaged, or does not fit this machine.
        DeviceError: it is for a GPU, and there is none that runs it.
        InputError: there are fewer processors than `threads`.
    """
    artifact = read_artifact(Path(path))
    if artifact.manifest["machine"] in LOADERS:
        model: CompiledModel = importlib.import_module(LOADERS[artifact.manifest["machine"]]).load_model(artifact)
        return model
    variant = select_variant(artifact.manifest)
    if threads is not None or _threads is None:
        set_threads(threads or cpu.cores())
    with tempfile.TemporaryDirectory(prefix="lqcompile-") as folder:
        library = Path(folder) / "network.so"
        library.write_bytes(artifact.read(variant["library"]))
        try:
            module = load_module(library)
        except RuntimeError as error:
            raise ArtifactError(f"artifact '{path}': this TVM cannot load its library: {error}") from error
    params = aligned(artifact.manifest["members"][variant["params"]]["bytes"])
    artifact.read_into(variant["params"], params.data)
    return CompiledModel(artifact.manifest, variant, module, params)


def set_threads(count: int) -> None:
    """Sets the number of threads of TVM's pool, which all models of the process share.

    Raises:
        InputError: `count` is below 1, or there are fewer processors.
    """
    global _threads
    if count < 1:
        raise InputError(f"threads: found {count}, expected at least 1")
    tvm_ffi.get_global_func("runtime.config_threadpool")(1, count)
    _threads = int(tvm_ffi.get_global_func("runtime.NumThreads")())
    if _threads < count:
        raise InputError(
            f"threads: found {count}, expected at most {_threads}, the processors that this process may use; ask for "
            "fewer or set TVM_NUM_THREADS before the start"
        )


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Sets the number of threads while a block runs, and then the number that there was before.

    Raises:
        InputError: `count` is below 1.
    """
    before = _threads or cpu.cores()
    set_threads(count)
    try:
        yield
    finally:
        set_threads(before)


def integers(stored: npt.NDArray[np.int32], entry: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """The integers of one sample, from what the kernel of sums stores.

    Args:
        stored: int32, at least as many as the entry's pairs and shape say.
        entry: describes the kernel, from the manifest.

    Returns:
        T int64[O, OH, OW] where bases are integers or there is one sum, else S_ij int64[Kw, Ka, O, OH, OW].
    """
    pairs, shape = entry["pairs"], entry["shape"]
    size = int(np.prod(pairs) * np.prod(shape))
    raw = stored[:size].reshape(*pairs, *shape)[..., : entry["channels"]].astype(np.int64)
    corrected = (raw - np.asarray(entry["corrections"], np.int64)) * np.asarray(entry["signs"], np.int64)
    sums = np.moveaxis(corrected, -1, 2)
    if entry["multipliers"] is not None:
        weights = np.asarray(entry["multipliers"][0], np.int64)
        acts = np.asarray(entry["multipliers"][1], np.int64)
        total: npt.NDArray[np.int64] = np.einsum("ijohw,oi,j->ohw", sums, weights, acts)
        return total
    weight_bits, act_bits = entry["bits"]
    return sums[0, 0] if entry["single"] else sums[:weight_bits, :act_bits]


def _ports(arrays: list[Array]) -> list[Any]:
    """Contiguous arrays[N, ...] as the entry point takes them, [N, elements]; they keep the memory alive."""
    return [tvm_ffi.from_dlpack(array.reshape(len(array), -1)) for array in arrays]


def aligned(size: int) -> npt.NDArray[np.uint8]:
    """Zeroed bytes that start at a multiple of 64."""
    block = np.zeros(size + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + size]


def aligned_copy(data: bytes | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The bytes, as `aligned` makes them."""
    copy = aligned(len(data))
    copy[:] = np.frombuffer(data, np.uint8)
    return copy
