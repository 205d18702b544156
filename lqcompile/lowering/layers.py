"""Lowering of contractions: family, formats, constants and the kernel itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lqcompile.errors import UnsupportedError
from lqcompile.graph.plan import (
    AddValue,
    Affine,
    AnyQuantizer,
    AnyWeights,
    Contraction,
    MaxPool,
    Output,
    Region,
    Stage,
    is_depthwise,
    is_exact,
    is_integer,
)
from lqcompile.graph.specs import Int8Weights, LowBitWeights, Quantizer, UniformQuantizer
from lqcompile.lowering import parameters as pack
from lqcompile.lowering.choose import FLOAT_FAMILIES
from lqcompile.lowering.groups import narrow
from lqcompile.lowering.outputs import affine_parameters, make_steps, make_store, make_stream_store, zero_code
from lqcompile.lowering.program import Step, SumsKernel, Tensor
from lqcompile.schedules.epilogue import Epilogue, Store
from lqcompile.schedules.formats import Kind, round_up
from lqcompile.schedules.problem import ConvShape, SumRule, Tile, basis_dtype, output_shapes
from lqcompile.schedules.space import Space
from lqcompile.target import Target

LARGEST_SUM = (1 << 31) - 1
"""Integer sums live in int32."""

LARGEST_FLOAT_INTEGER = 1 << 24
"""Integers up to it are float32 numbers."""

LARGEST_CODE = 255
"""Of 8-bit activations, as they are stored."""

LARGEST_FUSED_WINDOW = 4
"""Positions of a max-pooling window that is fused: each is a set of accumulators."""

SPACE_BLOCKS = (1, 2, 4, 8)
"""Vectors of channels of a tile that a tuner may try."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A contraction to lower.

    Args:
        region: it comes from.
        operation: the contraction.
        family: kernel family.
        quantizer: of the codes it reads, None for float32.
        source: tensor it reads.
        stages: up to the stream, without pooling that is not fused.
        stores: (output, tensor) to write.
        residuals: tensors of `AddValue` stages, in order.
        tile: register tile, None for what the schedule's model picks.
        plain_sums: what leaves is the integer sums, as float32 that holds them exactly; `sum_stages` go on from them.
    """

    region: Region
    operation: Contraction
    family: str
    quantizer: AnyQuantizer | None
    source: Tensor
    stages: tuple[Stage, ...]
    stores: tuple[tuple[Output, Tensor], ...]
    residuals: tuple[Tensor, ...]
    tile: Tile | None = None
    plain_sums: bool = False


def fused_pool(weights: AnyWeights, stages: Sequence[Stage]) -> MaxPool | None:
    """The max-pooling of a chain if it can run inside the kernel: no overlap, no padding, no addition before it.

    Channels whose chain falls are computed with negated weights, which -128 does not survive.
    """
    for index, stage in enumerate(stages):
        if isinstance(stage, AddValue):
            return None
        if isinstance(stage, MaxPool):
            small = stage.kernel[0] * stage.kernel[1] <= LARGEST_FUSED_WINDOW
            alone = not any(isinstance(other, MaxPool) for other in stages[index + 1 :])
            falling = pack.scale_signs(stages[:index])
            stuck = (
                isinstance(weights, Int8Weights)
                and falling is not None
                and bool((weights.values[falling] == -128).any())
            )
            tiled = stage.kernel == stage.strides and not any(stage.pads)
            return stage if small and alone and tiled and not stuck else None
    return None


def lower_layer(layer: Layer, target: Target, schedule: Any, name: str) -> tuple[Step, SumsKernel | None]:
    """The kernel of a contraction, and for exact ones the kernel that stores its integers.

    Raises:
        UnsupportedError: an integer sum could exceed int32.
    """
    return _Lowering(layer, target, schedule, name).lower()


def sum_stages(layer: Layer, target: Target, schedule: Any) -> tuple[Stage, ...] | None:
    """The stages from what a layer of `Layer.plain_sums` stores to y; None where it cannot be one."""
    return _Lowering(layer, target, schedule, layer.region.name).sum_stages()


def layer_tiles(layer: Layer, target: Target, schedule: Any) -> list[Tile]:
    """Register tiles to try for a contraction: what the schedule's model picks, then half and twice as many vectors."""
    return _Lowering(layer, target, schedule, layer.region.name).tiles()


def layer_space(layer: Layer, target: Target, schedule: Any) -> Space:
    """What a tuner may choose for a contraction in the layer's kernel family."""
    return _Lowering(layer, target, schedule, layer.region.name).space()


class _Lowering:
    def __init__(self, layer: Layer, target: Target, schedule: Any, name: str) -> None:
        self.layer = layer
        self.name = name
        self.isa = schedule.machine(target)
        self.schedule = schedule
        self.family = schedule.family(self.isa, layer.family)
        operation = layer.operation
        self.kind: Kind = layer.source.form.kind if layer.source.form else "f32"
        self.outputs = operation.out_shape[0]
        pool_at = next((i for i, stage in enumerate(layer.stages) if isinstance(stage, MaxPool)), None)
        before = layer.stages[:pool_at] if pool_at is not None else ()
        pool = layer.stages[pool_at] if pool_at is not None else None
        self.pool = pool.kernel if isinstance(pool, MaxPool) else (1, 1)
        signs = pack.scale_signs(before)
        self.flips = signs if signs is not None else np.zeros(self.outputs, np.bool_)
        self.stages = tuple(stage for stage in layer.stages if not isinstance(stage, MaxPool))
        if signs is not None:
            first = next(i for i, stage in enumerate(self.stages) if isinstance(stage, Affine))
            stage = self.stages[first]
            if isinstance(stage, Affine):
                flipped = replace(stage, scale=np.where(self.flips, -stage.scale, stage.scale))
                self.stages = (*self.stages[:first], flipped, *self.stages[first + 1 :])
        bits = any(tensor.form is not None and tensor.form.kind == "bits" for _, tensor in layer.stores)
        self.blocks = round_up(self.outputs, 32 if bits else max(16, self.isa.lanes)) // self.isa.lanes
        self.channels = self.blocks * self.isa.lanes

    def lower(self) -> tuple[Step, SumsKernel | None]:
        layer, operation = self.layer, self.layer.operation
        exact = is_exact(operation, layer.quantizer) and layer.family not in FLOAT_FAMILIES
        self._check_range(exact)
        mode = self._mode(exact)
        rule, words, basis, shape = self._prepare(mode)
        epilogue, arrays = self._epilogue(mode)
        tile = layer.tile or self._best_tile(shape, words, rule)
        shape, words = self._narrow(shape, words, tile.blocks)
        function = self.family.contraction(shape, tile, rule, epilogue)
        operands = self.family.operands(words, shape, tile)
        constants = [*operands]
        dtype = basis_dtype(rule, epilogue)
        if dtype:
            constants.append(self._basis(basis, rule, dtype))
        workspaces = self._workspace(shape, rule, f"{self.name}.counts")
        inputs = (layer.source.key, *(tensor.key for tensor in layer.residuals))
        step = Step(
            name=self.name,
            region=layer.region.name,
            function=function,
            inputs=inputs,
            constants=(*constants, *arrays),
            outputs=(*workspaces, *(tensor for _, tensor in layer.stores)),
            loop=type(self.family).__name__,
        )
        if not exact:
            return step, None
        if self.pool != (1, 1):
            shape = replace(shape, pool=(1, 1))
            tile = self.schedule.tile(self.isa, self.family, shape, rule, (1, 1), blocks=tile.blocks)
            operands = self.family.operands(words, shape, tile)
        return step, self._sums_kernel(shape, tile, rule, operands)

    def _prepare(self, mode: str) -> tuple[SumRule, npt.NDArray[Any], npt.NDArray[Any], ConvShape]:
        """How sums combine, packed words, weight basis and loop nest; finds what the family adds to the sums."""
        rule, words, basis = self._weights(mode)
        shape = self._shape(words)
        self.surplus: npt.NDArray[np.int64] = self.family.surplus(words, shape)
        return rule, words, basis, shape

    def _best_tile(self, shape: ConvShape, words: npt.NDArray[Any], rule: SumRule) -> Tile:
        """What the schedule's model picks, with fewer vectors where groups then leave fewer structural zeros."""
        best: Tile = self.schedule.tile(self.isa, self.family, shape, rule, self.pool)
        counts = {
            blocks: self._narrow(shape, words, blocks)[0].words
            for blocks in range(1, best.blocks + 1)
            if best.blocks % blocks == 0
        }
        blocks = max(blocks for blocks, count in counts.items() if count == min(counts.values()))
        chosen: Tile = self.schedule.tile(self.isa, self.family, shape, rule, self.pool, blocks=blocks)
        return best if blocks == best.blocks else chosen

    def _narrow(self, shape: ConvShape, words: npt.NDArray[Any], blocks: int) -> tuple[ConvShape, npt.NDArray[Any]]:
        """The loop nest and words of a grouped convolution without most structural zeros."""
        if self.layer.operation.geometry.group == 1 or not self.family.windowed:
            return shape, words
        word_channels = self.family.word_elements * (8 if shape.source.kind == "bits" else 1)
        tile_channels = blocks * self.family.channels
        return narrow(shape, words, self.layer.operation, word_channels=word_channels, tile_channels=tile_channels)

    def tiles(self) -> list[Tile]:
        shape, rule, best = self._model()
        fitting = self._fitting(shape, [best.blocks, best.blocks // 2, best.blocks * 2])
        return [self.schedule.tile(self.isa, self.family, shape, rule, self.pool, blocks=count) for count in fitting]

    def space(self) -> Space:
        shape, rule, best = self._model()
        counts = self._fitting(shape, [best.blocks, *(count for count in SPACE_BLOCKS if count != best.blocks)])
        found: Space = self.schedule.space(self.isa, self.family, shape, rule, self.pool, counts)
        return found

    def _model(self) -> tuple[ConvShape, SumRule, Tile]:
        """The loop nest, how sums combine, and the tile that the schedule's model picks."""
        layer = self.layer
        exact = is_exact(layer.operation, layer.quantizer) and layer.family not in FLOAT_FAMILIES
        rule, words, _ = self._weights(self._mode(exact))
        shape = self._shape(words)
        return shape, rule, self._best_tile(shape, words, rule)

    def _fitting(self, shape: ConvShape, counts: Sequence[int]) -> list[int]:
        """Vectors of channels that a tile may have, of `counts`; at least [1].

        Whether a later layer reads bits decides how far channels are rounded up: a tile must fit both ways.
        """
        sizes = [-(-round_up(self.outputs, align) // self.family.channels) for align in (16, 32)]
        most = self.family.most_blocks(shape)
        return [n for n in counts if 0 < n <= most and all(size % n == 0 for size in sizes)] or [1]

    def _check_range(self, exact: bool) -> None:
        if not exact or self.layer.quantizer is None:
            return
        bound = int(pack.sum_bound(self.layer.operation, self.layer.quantizer).max())
        if bound > LARGEST_SUM:
            raise UnsupportedError(
                f"node {self.layer.region.name!r}: integer sums reach {bound}, expected at most {LARGEST_SUM}; "
                "snap the bases to smaller integers or split the layer"
            )

    def _one_pair(self) -> bool:
        """Whether there is one plane pair and no offset: y rises or falls with the one integer S.

        A fused max-pooling takes the maximum of S, so y must then rise.
        """
        weights, quantizer = self.layer.operation.weights, self.layer.quantizer
        if not isinstance(weights, LowBitWeights) or not isinstance(quantizer, Quantizer):
            return False
        plain = not weights.offset.any() and not quantizer.offset
        if self.layer.family == "dot8" or weights.bits != 1 or quantizer.bits != 1 or not plain:
            return False
        return self.pool == (1, 1) or not bool((weights.basis * quantizer.basis < 0).any())

    def _weights(self, mode: str) -> tuple[SumRule, npt.NDArray[Any], npt.NDArray[Any]]:
        """How sums combine, packed words [O, P, kh, kw, W, vectors], and the weight basis [O, basis planes]."""
        layer, operation = self.layer, self.layer.operation
        weights, quantizer = operation.weights, layer.quantizer
        channels = operation.in_shape[0]
        sign = np.where(self.flips, -1, 1).reshape(-1, 1, 1, 1)
        if layer.family == "float":
            values = weights.dequantize().reshape(pack.kernel_shape(operation)) * sign.astype(np.float32)
            if self._is_depthwise():
                self.family = self.schedule.depthwise(self.isa, "float32", "float32")
                return SumRule(), values.astype(np.float32)[..., None, None], np.empty(0)
            words = pack.pack_float_words(pack.dense(values, operation.geometry, channels).astype(np.float32))
            return SumRule(), words, np.empty(0)
        if layer.family == "packed":
            planes = pack.weight_planes(operation, self.flips)
            rule = SumRule(signed_planes=weights.bits, weight_basis=planes.basis.shape[1])
            return rule, pack.pack_bit_words(planes.bits[:, : weights.bits]), planes.basis
        if layer.family == "dot8":
            integers = weights.values if isinstance(weights, Int8Weights) else None
            if isinstance(weights, LowBitWeights):
                integers = weights.integers()
            if integers is None:
                raise TypeError("dot8 needs integer weights")
            signed = integers.reshape(pack.kernel_shape(operation)) * sign.astype(np.int8)
            if self._is_depthwise():
                self.family = self.schedule.depthwise(self.isa, "int32", "int8")
                return SumRule(act_integers=(1,), weighted=False), signed[..., None, None], np.empty(0)
            flipped = pack.dense(signed, operation.geometry, channels)
            if self.kind == "i16":
                self.family = self.schedule.family(self.isa, "rows")
                return SumRule(act_integers=(1,), weighted=False), pack.pack_row_words(flipped), np.empty(0)
            largest = int(quantizer.basis.sum()) if isinstance(quantizer, Quantizer) else LARGEST_CODE

            def run() -> int:
                # A window of words starts anywhere: what is proven for longer runs does not hold for grouped layers.
                found = pack.sixteen_bit_run(flipped, largest)
                return found if operation.geometry.group == 1 else min(found, 1)

            self.family = self.family.with_run(run)
            return (
                SumRule(act_integers=(1,), weighted=False),
                pack.pack_byte_words(flipped, self.family.vectors),
                np.empty(0),
            )
        if not isinstance(quantizer, Quantizer):
            raise TypeError("plane pairs need low-bit codes")
        planes = pack.weight_planes(operation, self.flips)
        packed = self._plane_words(planes)
        signs = layer.family == "planes"  # which are zero where a group has no weight: no mask is needed
        mask_plane = -1 if signs else planes.mask_plane
        if mode == "integer" and self._one_pair():
            rule = SumRule(bipolar=not signs, mask_plane=mask_plane, act_integers=(1,), weighted=False)
            return rule, packed, np.empty(0)
        multipliers = planes.integers if is_integer(operation, quantizer) else None
        integer = multipliers is not None
        ones = float(quantizer.offset) != 0.0
        basis = [float(quantizer.scale) * float(value) for value in quantizer.basis]
        rule = SumRule(
            act_planes=quantizer.bits + ones,
            bipolar=not signs,
            mask_plane=mask_plane,
            act_integers=tuple(int(value) for value in quantizer.basis) if integer else (),
            act_basis=() if integer else (*basis, *([float(quantizer.offset)] if ones else [])),
            weight_basis=planes.basis.shape[1],
            weighted=not (mode == "real" and self._inner_only()),
        )
        if mask_plane < 0:
            most = int(planes.bits.sum(axis=(2, 3, 4), dtype=np.int64).max())
            self.family = self.family.for_codes(rule.act_planes, rule.act_integers, most)
        if self.family.combines_codes:
            rule = replace(rule, act_planes=1, act_integers=(1,))
        return rule, packed, planes.basis if multipliers is None else multipliers

    def _plane_words(self, planes: pack.PlaneSet) -> npt.NDArray[Any]:
        """Weight planes as the family reads them: words, nibbles, or signs in bytes."""
        if self.layer.family == "planes":
            return pack.pack_sign_words(planes)
        return pack.pack_nibbles(planes.bits) if self.layer.family == "lut" else pack.pack_bit_words(planes.bits)

    def _is_depthwise(self) -> bool:
        """Whether each output channel reads its own input channel, from pixels of at least one vector."""
        form = self.layer.source.form
        wide = form is not None and form.padded_channels >= self.isa.lanes
        return wide and is_depthwise(self.layer.operation)

    def _basis(self, basis: npt.NDArray[Any], rule: SumRule, dtype: str) -> npt.NDArray[Any]:
        planes = max(rule.weight_basis, basis.shape[1])
        planes += rule.mask_plane >= 0
        rows = np.zeros((planes, self.channels), dtype)
        rows[: basis.shape[1], : self.outputs] = basis.T
        return rows.ravel()

    def _mode(self, exact: bool) -> str:
        if not exact:
            return "float32"
        quantizer = self.layer.quantizer
        single = is_integer(self.layer.operation, quantizer) or self._one_pair()
        added = any(isinstance(stage, AddValue) for stage in self.stages)
        quantized = all(
            isinstance(output.value.quantizer, Quantizer) and output.value.holds_codes
            for output, _ in self.layer.stores
        )
        if added or not quantized:
            return "float64"
        return "integer" if single else "real"

    def _inner_only(self) -> bool:
        """Whether thresholds apply to ``sum_j u_j S_j`` itself: one weight plane, and no pooling that v would turn."""
        weights = self.layer.operation.weights
        if not isinstance(weights, LowBitWeights) or weights.bits != 1 or weights.offset.any():
            return False
        return self.pool == (1, 1) or not bool((weights.basis < 0).any())

    def _scales(self) -> npt.NDArray[np.float64]:
        """``s_w * s_a`` of an integer contraction: float64[O]."""
        weights, quantizer = self.layer.operation.weights, self.layer.quantizer
        if not isinstance(weights, Int8Weights | LowBitWeights) or quantizer is None:
            raise TypeError("scales belong to integer contractions")
        scales: npt.NDArray[np.float64] = weights.scale.astype(np.float64) * np.float64(np.float32(quantizer.scale))
        return scales

    def _corrections(self) -> npt.NDArray[np.int64]:
        """What the stored zero point and the kernel family add to the integer sum: int64[O], flipped ones negated."""
        weights, quantizer = self.layer.operation.weights, self.layer.quantizer
        if not isinstance(weights, Int8Weights) or not isinstance(quantizer, UniformQuantizer):
            return self.surplus
        total = weights.values.astype(np.int64).reshape(self.outputs, -1).sum(axis=1)
        signed: npt.NDArray[np.int64] = np.where(self.flips, -total, total) * zero_code(quantizer, self.kind)
        return signed + self.surplus

    def _epilogue(self, mode: str) -> tuple[Epilogue, list[npt.NDArray[Any]]]:
        layer = self.layer
        if mode == "integer":
            return self._integer_epilogue()
        if mode == "real":
            return self._real_epilogue()
        integer = mode == "float64" and is_integer(layer.operation, layer.quantizer)
        stages = (*(self._sum_stages() if integer and not layer.plain_sums else ()), *self.stages)
        steps = make_steps(stages, [tensor.form for tensor in layer.residuals if tensor.form is not None])
        arrays = affine_parameters(stages, self.channels)
        stores = []
        for output, tensor in layer.stores:
            store, parameters = make_stream_store(output, tensor, self.channels)
            stores.append(store)
            arrays += parameters
        kind: Any = mode
        return Epilogue(mode=kind, steps=steps, stores=tuple(stores)), arrays

    def sum_stages(self) -> tuple[Stage, ...] | None:
        """What makes y of the stored sums, None where float32 does not hold those."""
        layer = self.layer
        if layer.family in FLOAT_FAMILIES or not is_integer(layer.operation, layer.quantizer):
            return None
        if layer.quantizer is None:
            raise TypeError("integer sums need codes")
        self._prepare("float64")
        bound = pack.sum_bound(layer.operation, layer.quantizer) + np.abs(self._corrections())
        return self._sum_stages() if int(bound.max()) <= LARGEST_FLOAT_INTEGER else None

    def _sum_stages(self) -> tuple[Stage, ...]:
        """From the stored sum to y."""
        corrections = self._corrections()
        scaling = Affine(scale=self._scales(), shift=np.zeros(self.outputs))
        if not corrections.any():
            return (scaling,)
        return Affine(scale=np.ones(self.outputs), shift=-corrections.astype(np.float64)), scaling

    def _integer_epilogue(self) -> tuple[Epilogue, list[npt.NDArray[Any]]]:
        """Quantizers as thresholds on the integer sum; channels whose chain falls compare the complement ``~T``."""
        layer = self.layer
        if layer.quantizer is None:
            raise TypeError("integer sums need codes")
        bound = pack.sum_bound(layer.operation, layer.quantizer)
        corrections = self._corrections()[:, None]
        stores: list[Store] = []
        arrays: list[npt.NDArray[Any]] = []
        for output, tensor in layer.stores:
            quantizer = output.value.quantizer
            if not isinstance(quantizer, Quantizer):
                raise TypeError("integer thresholds need a level quantizer")
            signs = pack.scale_signs((*self.stages, *output.stages))
            falling = (signs if signs is not None else np.zeros(self.outputs, np.bool_)) ^ self._falls()

            def value_of(
                sums: npt.NDArray[np.int64], falling: npt.NDArray[np.bool_] = falling, output: Output = output
            ) -> npt.NDArray[np.float32]:
                raw = np.where(falling[:, None], ~sums, sums)
                return pack.stream_values(self._real(raw - corrections), self.stages, output)

            limit = bound + np.abs(corrections[:, 0]) + 1
            thresholds = pack.integer_thresholds(value_of, quantizer.thresholds, limit)
            rows = np.full((len(quantizer.thresholds), self.channels), np.iinfo(np.int32).max, np.int32)
            rows[:, : self.outputs] = thresholds
            store = replace(make_store(output, tensor), steps=(), per_channel=True, complement=bool(falling.any()))
            stores.append(store)
            arrays.append(rows.ravel())
            if store.complement:
                arrays.append(pack.per_channel(np.where(falling, -1, 0), self.channels, "int32"))
        return Epilogue(mode="integer", steps=(), stores=tuple(stores)), arrays

    def _real_epilogue(self) -> tuple[Epilogue, list[npt.NDArray[Any]]]:
        """Quantizers as float64 thresholds on y, or on the sum over activation planes; falling channels change sign."""
        weights, acts = self.layer.operation.weights, self.layer.quantizer
        if not isinstance(weights, LowBitWeights) or not isinstance(acts, Quantizer):
            raise TypeError("real thresholds need low-bit weights on low-bit codes")
        basis = weights.scale[:, None].astype(np.float64) * weights.basis.astype(np.float64)
        inner_only = self._inner_only()
        factor = basis if inner_only else np.ones((self.outputs, 1))
        steps = float(np.abs(acts.basis.astype(np.float64) * acts.scale).sum()) + abs(acts.offset)
        weight = np.abs(basis).sum(axis=1) + np.abs(weights.offset)
        # Twice the largest value, so that no rounding on the way leaves the range.
        bound = 2.0 * np.prod(weights.shape[1:]) * steps * (np.ones(self.outputs) if inner_only else weight)
        bound = np.maximum(bound, np.finfo(np.float32).tiny)
        stores: list[Store] = []
        arrays: list[npt.NDArray[Any]] = []
        for output, tensor in self.layer.stores:
            quantizer = output.value.quantizer
            if not isinstance(quantizer, Quantizer):
                raise TypeError("real thresholds need a level quantizer")
            signs = pack.scale_signs((*self.stages, *output.stages))
            falling = (signs if signs is not None else np.zeros(self.outputs, np.bool_)) ^ (factor[:, 0] < 0)
            turn = np.where(falling, -1.0, 1.0)[:, None]

            def value_of(
                values: npt.NDArray[np.float64], turn: npt.NDArray[np.float64] = turn, output: Output = output
            ) -> npt.NDArray[np.float32]:
                return pack.stream_values(factor * (values * turn), self.stages, output)

            thresholds = pack.real_thresholds(value_of, quantizer.thresholds, bound)
            rows = np.full((len(quantizer.thresholds), self.channels), np.inf)
            rows[:, : self.outputs] = thresholds
            store = replace(make_store(output, tensor), steps=(), per_channel=True, complement=bool(falling.any()))
            stores.append(store)
            arrays.append(rows.ravel())
            if store.complement:
                arrays.append(pack.per_channel(turn[:, 0], self.channels, "float64", 1.0))
        return Epilogue(mode="real", steps=(), stores=tuple(stores)), arrays

    def _falls(self) -> npt.NDArray[np.bool_]:
        """Channels in which y falls as the stored sum rises: bool[O]."""
        probe: npt.NDArray[np.bool_] = self._real(np.ones((self.outputs, 1), np.int64))[:, 0] < 0
        return probe

    def _real(self, sums: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Real value of the stored integer sums, in the canonical order: int64[O, L] -> float64[O, L]."""
        weights, quantizer = self.layer.operation.weights, self.layer.quantizer
        if not self._one_pair() or not isinstance(weights, LowBitWeights) or not isinstance(quantizer, Quantizer):
            return sums.astype(np.float64) * self._scales()[:, None]
        if is_integer(self.layer.operation, quantizer):
            total = sums * weights.basis.astype(np.int64) * int(quantizer.basis[0])
            return total.astype(np.float64) * self._scales()[:, None]
        basis = weights.scale[:, None].astype(np.float64) * weights.basis.astype(np.float64)
        inner = float(quantizer.scale) * float(quantizer.basis[0]) * sums.astype(np.float64)
        real: npt.NDArray[np.float64] = basis * inner
        return real

    def _shape(self, words: npt.NDArray[Any]) -> ConvShape:
        operation, form = self.layer.operation, self.layer.source.form
        if form is None:
            raise TypeError("a contraction reads a formatted tensor")
        geometry = operation.geometry
        shape = ConvShape(
            source=form,
            kernel=geometry.kernel,
            strides=geometry.strides,
            dilations=geometry.dilations,
            origin=(form.halo[0] - geometry.pads[0], form.halo[1] - geometry.pads[1]),
            out_height=operation.out_shape[1],
            out_width=operation.out_shape[2],
            blocks=self.blocks,
            words=words.shape[4],
            weight_planes=words.shape[1],
            pool=self.pool,
        )
        nest: ConvShape = self.family.nest(shape)
        return nest

    def _workspace(self, shape: ConvShape, rule: SumRule, key: str) -> tuple[Tensor, ...]:
        size = self.family.workspace(shape, rule)
        return (Tensor(key=key, dtype="int32", size=size),) if size else ()

    def _sums_kernel(
        self, plain: ConvShape, tile: Tile, rule: SumRule, operands: tuple[npt.NDArray[Any], ...]
    ) -> SumsKernel:
        layer, operation = self.layer, self.layer.operation
        epilogue = Epilogue(mode="sums", steps=(), stores=())
        name = f"{self.name}_sums"
        function = self.family.contraction(plain, tile, rule, epilogue, parallel=False)
        ((dtype, size),) = output_shapes(plain, rule, epilogue, self.isa)
        outputs = (
            *self._workspace(plain, rule, f"{name}.counts"),
            Tensor(key=f"{name}.out", dtype=dtype, size=size),
        )
        multipliers = None
        weights, quantizer = operation.weights, layer.quantizer
        if layer.family != "dot8" and is_integer(operation, quantizer):
            if not isinstance(weights, LowBitWeights) or not isinstance(quantizer, Quantizer):
                raise TypeError("plane pairs need low-bit weights and codes")
            acts = (1,) if self.family.combines_codes else tuple(int(value) for value in quantizer.basis)
            multipliers = (weights.basis.astype(np.int64), acts)
        step = Step(
            name=name,
            region=layer.region.name,
            function=function,
            inputs=(layer.source.key,),
            constants=operands,
            outputs=outputs,
        )
        return SumsKernel(
            step=step,
            region=layer.region.name,
            pairs=(rule.weight_basis, rule.act_planes),
            bits=(operation.weights.bits, layer.quantizer.bits if layer.quantizer else 0),
            shape=(plain.out_height, plain.out_width, self.channels),
            channels=self.outputs,
            signs=np.where(self.flips, -1, 1).astype(np.int32),
            corrections=self._corrections().astype(np.int32),
            multipliers=multipliers,
            single=layer.family == "dot8",
        )
