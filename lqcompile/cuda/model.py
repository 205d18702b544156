"""Loading an artifact for NVIDIA GPUs and running it: the driver and NumPy are all it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lqcompile.artifact import Artifact
from lqcompile.cuda.capability import runs
from lqcompile.cuda.driver import Gpu
from lqcompile.cuda.engine import Array, Engine
from lqcompile.errors import DeviceError
from lqcompile.inputs import check_inputs
from lqcompile.runtime import CompiledModel, aligned_copy


class CudaModel(CompiledModel):
    """A compiled network, loaded on a GPU.

    Samples of a call go through the network together, in batches that fit its memory.
    """

    def __init__(self, manifest: dict[str, Any], variant: dict[str, Any], engine: Engine, params: bytes) -> None:
        super().__init__(manifest, variant, {"run": engine.run, "sums": engine.sums}, aligned_copy(params))
        self.engine = engine

    def bind(self, inputs: Mapping[str, Array]) -> tuple[Callable[[], None], dict[str, Array]]:
        """As of any model; every call copies the inputs to the GPU and the outputs back."""
        arrays = [np.ascontiguousarray(array) for array in check_inputs(self.inputs, inputs).values()]
        count = len(arrays[0])
        results = {port.name: np.empty((count, *port.shape), np.float32) for port in self.outputs}
        return self.engine.bind([array.reshape(count, -1) for array in (*arrays, *results.values())]), results

    def bind_steps(self, inputs: Mapping[str, Array], first: int, last: int) -> Callable[[], None]:
        """As of any model; what the steps read stays on the GPU."""
        arrays = [np.ascontiguousarray(array[:1]) for array in check_inputs(self.inputs, inputs).values()]
        arrays += [np.empty((1, *port.shape), np.float32) for port in self.outputs]
        return self.engine.steps([array.reshape(1, -1) for array in arrays], first, last)


def load_model(artifact: Artifact) -> CudaModel:
    """Loads an artifact on the GPU, with the variant that was compiled for it.

    Raises:
        DeviceError: there is no GPU, its driver is too old, or the artifact has no code for it.
    """
    gpu = Gpu()
    manifest = artifact.manifest
    variant = choose_variant(manifest, gpu)
    sizes = tuple([int(np.prod(port["shape"])) for port in manifest[key]] for key in ("inputs", "outputs"))
    code, params = artifact.read(variant["library"]), artifact.read(variant["params"])
    engine = Engine(variant, (sizes[0], sizes[1]), code, params, gpu, f"artifact '{artifact.path}'")
    return CudaModel(manifest, variant, engine, params)


def choose_variant(manifest: Mapping[str, Any], gpu: Gpu) -> dict[str, Any]:
    """The last variant, hence the most special, that the GPU can run.

    Raises:
        DeviceError: it can run none.
    """
    for variant in reversed(manifest["variants"]):
        if all(runs(feature, gpu.capability) for feature in variant["requires"]):
            chosen: dict[str, Any] = variant
            return chosen
    built = ", ".join(feature for variant in manifest["variants"] for feature in variant["requires"])
    raise DeviceError(
        f"artifact for target '{manifest['target']}': found code for {built}, expected code for compute capability "
        f"{gpu.capability[0]}.{gpu.capability[1]} ({gpu.name}); build the model again with a --target for this GPU"
    )
