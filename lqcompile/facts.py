"""What the manifest tells of the work in a network: operations and bytes, of each layer and each region.

Profiles are made from these, on machines that have neither the ONNX file nor the compiler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lqcompile.graph.plan import Contraction, Region
from lqcompile.graph.statistics import packed_weight_bytes
from lqcompile.lowering.program import Step, Tensor


def layer_facts(contraction: Contraction, steps: Sequence[Step]) -> dict[str, Any]:
    """Facts about one convolution or linear layer.

    Args:
        contraction: the layer.
        steps: of its region.

    Returns:
        ``loop`` (class of the schedule with its inner loop), ``macs`` (multiply-accumulates of one sample, padding
        included), ``weights`` (how many), ``packed_bytes`` (of the weights as a model file stores them),
        ``kernel_size`` [rows, columns], ``group``, ``in_shape`` and ``out_shape`` [C, H, W].
    """
    weights = contraction.weights
    return {
        "loop": next(step.loop for step in steps if step.loop),
        "macs": math.prod(contraction.out_shape) * math.prod(weights.shape[1:]),
        "weights": math.prod(weights.shape),
        "packed_bytes": packed_weight_bytes(weights),
        "kernel_size": list(contraction.geometry.kernel),
        "group": contraction.geometry.group,
        "in_shape": list(contraction.in_shape),
        "out_shape": list(contraction.out_shape),
    }


def region_facts(region: Region | None, steps: Sequence[Step], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Facts about what runs as one.

    Args:
        region: of the plan; None for steps that only change the format of an input or output.
        steps: that it became.
        tensors: every tensor of the program by its key, graph inputs and outputs included.

    Returns:
        ``op``, ``fused`` (stages behind the operator, in order) and ``bytes`` of one sample as kernels hold them:
        ``parameters``, ``read``, ``written`` and ``scratch`` (workspaces).
    """
    made = {tensor.key: tensor for step in steps for tensor in step.outputs}
    read = {key for step in steps for key in step.inputs} - made.keys()
    return {
        "op": region.op_type if region else "Copy",
        "fused": [type(stage).__name__ for stage in region.stages] if region else [],
        "bytes": {
            "parameters": sum(array.nbytes for step in steps for array in step.constants),
            "read": sum(_size(tensors[key]) for key in read),
            "written": sum(_size(tensor) for tensor in made.values() if tensor.value is not None),
            "scratch": sum(_size(tensor) for tensor in made.values() if tensor.value is None),
        },
    }


def _size(tensor: Tensor) -> int:
    return tensor.size * np.dtype(tensor.dtype).itemsize
