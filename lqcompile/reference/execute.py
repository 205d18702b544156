"""Running a plan in NumPy: what every backend must reproduce."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from lqcompile.errors import InputError
from lqcompile.graph.plan import (
    AnyQuantizer,
    AveragePool,
    Concat,
    Contraction,
    Geometry,
    Plan,
    Region,
    Softmax,
    Value,
    is_exact,
    is_integer,
)
from lqcompile.graph.specs import Int8Weights, LowBitWeights, Quantizer, UniformQuantizer
from lqcompile.reference.epilogue import apply_stages, combine_planes, scale_integers
from lqcompile.reference.sums import (
    convolve,
    integer_sums,
    plane_sums,
    valid_counts,
    valid_sums,
    window_sums,
    windows,
)
from lqcompile.reference.values import (
    Array,
    dequantize,
    held_quantizer,
    integer_levels,
    level_bits,
    quantize,
)

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


def execute(plan: Plan, inputs: Mapping[str, Float32]) -> dict[str, Array]:
    """Run a plan.

    Args:
        plan: from `lqcompile.graph.fuse.make_plan`.
        inputs: float32[N, ...] by graph input name.

    Returns:
        Every value by name, in its logical encoding (see `lqcompile.reference.values`).

    Raises:
        InputError: an input is missing, or its shape or dtype is wrong.
    """
    values: dict[str, Array] = {}
    for value in plan.inputs:
        if value.name not in inputs:
            raise InputError(f"input '{value.name}': missing, found {sorted(inputs)}; pass every graph input by name")
        array = inputs[value.name]
        if array.dtype != np.float32 or array.shape[1:] != value.shape:
            expected = ", ".join(["N", *map(str, value.shape)])
            raise InputError(
                f"input '{value.name}': found {array.dtype}{list(array.shape)}, expected float32[{expected}]; "
                "convert the array"
            )
        values[value.name] = array
    for region in plan.regions:
        _, outputs = execute_region(plan, region, values)
        values.update(outputs)
    return values


def graph_outputs(plan: Plan, values: Mapping[str, Array]) -> dict[str, Float32]:
    """The graph outputs by their name in the file, as float32, from the values that `execute` returns."""
    result = {}
    for name, source, shape in plan.outputs:
        real = _real(values[source], plan.values[source])
        result[name] = real.reshape(len(real), *shape)
    return result


def execute_region(plan: Plan, region: Region, values: Mapping[str, Array]) -> tuple[Int64 | None, dict[str, Array]]:
    """Run one region on given values.

    Args:
        plan: that holds the region.
        region: to run.
        values: what it reads, by name, in their logical encoding.

    Returns:
        The integers that the contraction sums (T int64[N, O, OH, OW] where `is_integer`, else S_ij
        int64[N, Kw, Ka, O, OH, OW], without the rows of the offsets; None where the region is not exact), and the
        outputs by name.
    """
    operation = region.operation
    integers = None
    if isinstance(operation, Concat) and operation.of_codes:
        joined = np.concatenate([values[name] for name in region.inputs], axis=1)
        return None, {output.value.name: joined for output in region.outputs}
    if isinstance(operation, Contraction):
        source = plan.values[region.inputs[0]]
        quantizer = held_quantizer(source)
        array = values[source.name].reshape(-1, *operation.in_shape)
        if is_exact(operation, quantizer):
            integers, y = _exact_contraction(operation, quantizer, array)
        else:
            y = _float_contraction(operation, _real(array, source)).astype(np.float64)
    else:
        y = _other(region, [_real(values[name], plan.values[name]) for name in region.inputs]).astype(np.float64)
    residuals = {name: _real(values[name], plan.values[name]) for name in region.residuals}
    stream = apply_stages(y, region.stages, residuals).astype(np.float32)
    stream = stream.reshape(len(stream), *region.stream_shape)
    return integers, _outputs(region, stream)


def real_basis(weights: LowBitWeights) -> Float64:
    """Real basis v of `weights`: float64[O, Kw], the scale of an integer basis multiplied in (exactly)."""
    result: Float64 = weights.basis.astype(np.float64) * weights.scale.astype(np.float64)[:, None]
    return result


def real_act_basis(quantizer: Quantizer) -> Float64:
    """Real basis u of `quantizer`: float64[Ka], the scale of an integer basis multiplied in (exactly)."""
    result: Float64 = quantizer.basis.astype(np.float64) * np.float64(quantizer.scale)
    return result


def _outputs(region: Region, stream: Float32) -> dict[str, Array]:
    """Every output of a region, from its stream."""
    result: dict[str, Array] = {}
    for output in region.outputs:
        x = apply_stages(stream.astype(np.float64), output.stages, {}).astype(np.float32) if output.stages else stream
        x = x.reshape(len(x), *output.value.shape)
        quantizer = output.value.quantizer
        if quantizer is None:
            result[output.value.name] = x
        elif output.decoded:
            result[output.value.name] = dequantize(quantize(x, quantizer), quantizer)
        else:
            result[output.value.name] = quantize(x, quantizer)
    return result


def _exact_contraction(contraction: Contraction, quantizer: AnyQuantizer | None, codes: Array) -> tuple[Int64, Float64]:
    """The integers, and y in float64."""
    weights, geometry = contraction.weights, contraction.geometry
    if isinstance(weights, Int8Weights) and isinstance(quantizer, UniformQuantizer):
        centred = codes.astype(np.int64) - quantizer.zero_point
        kernels = weights.values.reshape(len(weights.values), -1, *geometry.kernel)
        total = integer_sums(centred, kernels, geometry)
        return total, scale_integers(total, weights.scale, float(quantizer.scale))
    if not isinstance(weights, LowBitWeights) or not isinstance(quantizer, Quantizer):
        raise TypeError(f"{type(weights).__name__} on {type(quantizer).__name__} is not an exact contraction")
    if is_integer(contraction, quantizer):
        integers = weights.integers().reshape(len(weights.planes), -1, *geometry.kernel)
        total = integer_sums(integer_levels(quantizer)[codes], integers, geometry)
        return total, scale_integers(total, weights.scale, float(quantizer.scale))
    weight_bits, bits = weights.bits_array(), level_bits(codes, quantizer)
    sums = plane_sums(bits, weight_bits, weights.shape, geometry)
    outputs = len(weight_bits)
    return sums, combine_planes(
        sums,
        real_basis(weights),
        real_act_basis(quantizer),
        weight_offset=(weights.offset.astype(np.float64), window_sums(bits, outputs, geometry))
        if weights.offset.any()
        else None,
        act_offset=(
            float(quantizer.offset),
            valid_sums(weight_bits, contraction.in_shape, geometry),
            valid_counts(contraction.in_shape, geometry),
        )
        if quantizer.offset
        else None,
    )


def _float_contraction(contraction: Contraction, x: Float32) -> Float32:
    """Convolution in float32, in any order of summation."""
    kernels = contraction.weights.dequantize()
    kernels = kernels.reshape(len(kernels), -1, *contraction.geometry.kernel)
    return convolve(x, kernels, contraction.geometry).astype(np.float32)


def _other(region: Region, inputs: list[Float32]) -> npt.NDArray[np.floating]:
    """The operations that are not contractions."""
    operation = region.operation
    if isinstance(operation, AveragePool):
        return average_pool(inputs[0], operation)
    if isinstance(operation, Concat):
        return np.concatenate(inputs, axis=1)
    if isinstance(operation, Softmax):
        shifted = np.exp(inputs[0] - inputs[0].max(axis=1, keepdims=True))
        result: Float32 = shifted / shifted.sum(axis=1, keepdims=True)
        return result
    return inputs[0]


def average_pool(x: Float32, pool: AveragePool) -> Float64:
    """Mean over windows: summed row by row in float64, then divided by the count: float32[N, C, H, W] -> float64."""
    geometry = Geometry(kernel=pool.kernel, strides=pool.strides, pads=pool.pads)
    view = windows(x.astype(np.float64), geometry)
    rows, columns = pool.kernel
    total = np.zeros(view.shape[:4])
    for i in range(rows):
        for j in range(columns):
            total = total + view[..., i, j]
    return total / pool_counts(pool, (x.shape[2], x.shape[3]))


def pool_counts(pool: AveragePool, size: tuple[int, int]) -> Float64:
    """Divisors of an average pool on an image of (H, W): float64[OH, OW]."""
    geometry = Geometry(kernel=pool.kernel, strides=pool.strides, pads=pool.pads)
    counts = valid_counts((1, *size), geometry).astype(np.float64)
    return np.full_like(counts, pool.kernel[0] * pool.kernel[1]) if pool.count_include_pad else counts


def _real(array: Array, value: Value) -> Float32:
    """The real values of `value`, given in its logical encoding."""
    quantizer = held_quantizer(value)
    result: Float32 = array if quantizer is None else dequantize(array, quantizer)
    return result
