"""Lowering of contractions: family, formats, constants and the kernel itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lqcompile.errors import UnsupportedError
from lqcompile.graph.plan import (
    Affine,
    AnyQuantizer,
    AnyWeights,
    Contraction,
    Joining,
    MaxPool,
    Output,
    Region,
    Stage,
    is_depthwise,
    is_exact,
    is_integer,
    is_monotone,
)
from lqcompile.graph.specs import Int8Weights, LowBitWeights, Quantizer
from lqcompile.lowering import parameters as pack
from lqcompile.lowering.choose import FLOAT_FAMILIES
from lqcompile.lowering.families import BYTE_FAMILIES
from lqcompile.lowering.groups import narrow
from lqcompile.lowering.outputs import make_steps, make_stream_store, step_parameters
from lqcompile.lowering.program import Fewer, Step, SumsKernel, Tensor
from lqcompile.lowering.sums import Sums
from lqcompile.lowering.thresholds import integer_epilogue, real_epilogue
from lqcompile.lowering.weights import pack_weights
from lqcompile.lowering.winograd import cells_serve
from lqcompile.schedules.cells import saved_products
from lqcompile.schedules.epilogue import Epilogue
from lqcompile.schedules.formats import round_up
from lqcompile.schedules.problem import ConvShape, Problem, Tile, basis_dtype, output_shapes
from lqcompile.schedules.space import Space
from lqcompile.target import Target

LARGEST_SUM = (1 << 31) - 1
"""Integer sums live in int32."""

LARGEST_FLOAT_INTEGER = 1 << 24
"""Integers up to it are float32 numbers."""

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
        residuals: tensors of stages that join a value in, in order.
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
    """The max-pooling of a chain if it can run inside the kernel: no overlap, no padding, nothing joined in before it.

    Channels whose chain falls are computed with negated weights, which -128 does not survive; an affine map must turn
    them back before anything else.
    """
    for index, stage in enumerate(stages):
        if isinstance(stage, Joining):
            return None
        if isinstance(stage, MaxPool):
            small = stage.kernel[0] * stage.kernel[1] <= LARGEST_FUSED_WINDOW
            alone = not any(isinstance(other, MaxPool) for other in stages[index + 1 :])
            falling = pack.scale_signs(stages[:index])
            stuck = (
                falling is not None
                and bool(falling.any())
                and (
                    not isinstance(stages[0], Affine)
                    or (isinstance(weights, Int8Weights) and bool((weights.values[falling] == -128).any()))
                )
            )
            tiled = stage.kernel == stage.strides and not any(stage.pads)
            return stage if small and alone and tiled and not stuck else None
    return None


def saved_on_cells(region: Region) -> int:
    """Products that tiles of cells save a layer on an 8-bit image for each output; 0 where it cannot run on them."""
    operation = region.operation
    if not isinstance(operation, Contraction) or not isinstance(operation.weights, Int8Weights):
        return 0
    values = operation.weights.values.reshape(pack.kernel_shape(operation))
    if fused_pool(operation.weights, region.stages) is not None or not cells_serve(operation, values):
        return 0
    saved: int = saved_products(operation.geometry.kernel, operation.geometry.strides, operation.in_shape[0])
    return saved


def lower_layer(layer: Layer, target: Target, schedule: Any, name: str) -> tuple[Step, SumsKernel | None]:
    """The kernel of a contraction, and for exact ones the kernel that stores its integers.

    Raises:
        UnsupportedError: an integer sum could exceed int32.
    """
    return _Lowering(layer, target, schedule, name).lower()


def sum_stages(layer: Layer, target: Target, schedule: Any) -> tuple[Stage, ...] | None:
    """The stages from what a layer of `Layer.plain_sums` stores to y; None where it cannot be one."""
    return _Lowering(layer, target, schedule, layer.region.name, mode="float64").sum_stages()


def layer_tiles(layer: Layer, target: Target, schedule: Any) -> list[Tile]:
    """Register tiles to try for a contraction: what the schedule's model picks, then half and twice as many vectors."""
    return _Lowering(layer, target, schedule, layer.region.name).tiles()


def layer_space(layer: Layer, target: Target, schedule: Any) -> Space:
    """What a tuner may choose for a contraction in the layer's kernel family."""
    return _Lowering(layer, target, schedule, layer.region.name).space()


class _Lowering:
    def __init__(self, layer: Layer, target: Target, schedule: Any, name: str, mode: str | None = None) -> None:
        self.layer = layer
        self.name = name
        self.isa = schedule.machine(target)
        self.schedule = schedule
        operation = layer.operation
        self.outputs = operation.out_shape[0]
        pool_at = next((i for i, stage in enumerate(layer.stages) if isinstance(stage, MaxPool)), None)
        before = layer.stages[:pool_at] if pool_at is not None else ()
        pool = layer.stages[pool_at] if pool_at is not None else None
        self.pool = pool.kernel if isinstance(pool, MaxPool) else (1, 1)
        signs = pack.scale_signs(before)
        flips = signs if signs is not None else np.zeros(self.outputs, np.bool_)
        self.stages = _turned(tuple(stage for stage in layer.stages if not isinstance(stage, MaxPool)), flips)
        bits = any(tensor.form is not None and tensor.form.kind == "bits" for _, tensor in layer.stores)
        self.blocks = round_up(self.outputs, 32 if bits else max(16, self.isa.lanes)) // self.isa.lanes
        self.channels = self.blocks * self.isa.lanes
        self.sums = Sums(
            operation=operation,
            quantizer=layer.quantizer,
            family=layer.family,
            kind=layer.source.form.kind if layer.source.form else "f32",
            flips=flips,
            pooled=self.pool != (1, 1),
        )
        self.exact = is_exact(operation, layer.quantizer) and layer.family not in FLOAT_FAMILIES
        self.mode = mode or self._mode()
        packed = pack_weights(self.sums, self.mode, schedule, self.isa, depthwise=self._is_depthwise(), pool=self.pool)
        self.family, self.rule, self.words, self.basis = packed.family, packed.rule, packed.words, packed.basis
        self.shape = self._shape()
        self.family = self.family.proven(self.words, self.shape)
        self.corrections = self.sums.corrections(self.family.surplus(self.words, self.shape))

    def lower(self) -> tuple[Step, SumsKernel | None]:
        layer = self.layer
        self._check_range()
        epilogue, arrays = self._epilogue()
        tile = layer.tile or self._best_tile()
        shape, words = self._narrow(tile.blocks)
        function = self._contraction(shape, tile, epilogue)
        operands = self.family.operands(words, shape, tile)
        dtype = basis_dtype(self.rule, epilogue)
        basis = (self._basis_rows(dtype),) if dtype else ()
        workspaces = self._workspace(shape, f"{self.name}.counts")
        fewer = self.family.fewer(shape, self.rule, tile) if layer.tile is None else None
        step = Step(
            name=self.name,
            region=layer.region.name,
            function=function,
            inputs=(layer.source.key, *(tensor.key for tensor in layer.residuals)),
            constants=(*operands, *basis, *arrays),
            outputs=(*workspaces, *(tensor for _, tensor in layer.stores)),
            loop=type(self.family).__name__,
            fewer=self._fewer(shape, epilogue, *fewer) if fewer else None,
        )
        if not self.exact:
            return step, None
        if self.pool != (1, 1):
            shape = replace(shape, pool=(1, 1))
            tile = self.schedule.tile(self.isa, self.family, shape, self.rule, (1, 1), blocks=tile.blocks)
            operands = self.family.operands(words, shape, tile)
        return step, self._sums_kernel(shape, tile, operands)

    def _contraction(self, shape: ConvShape, tile: Tile, epilogue: Epilogue, parallel: bool = True) -> Any:
        """The PrimFunc."""
        problem = Problem(shape=shape, tile=tile, rule=self.rule, epilogue=epilogue, parallel=parallel)
        return self.family.contraction(problem)

    def _fewer(self, shape: ConvShape, epilogue: Epilogue, tile: Tile, samples: int) -> Fewer:
        """The kernel for few samples; its weights are packed as those of the others."""
        function = self._contraction(shape, tile, epilogue)
        return Fewer(function=function, samples=samples, tile=tile)

    def tiles(self) -> list[Tile]:
        best = self._best_tile()
        fitting = self._fitting([best.blocks, best.blocks // 2, best.blocks * 2])
        return [
            self.schedule.tile(self.isa, self.family, self.shape, self.rule, self.pool, blocks=count)
            for count in fitting
        ]

    def space(self) -> Space:
        best = self._best_tile()
        counts = self._fitting([best.blocks, *(count for count in SPACE_BLOCKS if count != best.blocks)])
        found: Space = self.schedule.space(self.isa, self.family, self.shape, self.rule, self.pool, counts)
        return found

    def sum_stages(self) -> tuple[Stage, ...] | None:
        """What makes y of the stored sums, None where float32 does not hold those."""
        layer = self.layer
        if layer.family in FLOAT_FAMILIES or not is_integer(layer.operation, layer.quantizer):
            return None
        if layer.quantizer is None:
            raise TypeError("integer sums need codes")
        bound = pack.sum_bound(layer.operation, layer.quantizer) + np.abs(self.corrections)
        return self.sums.stages(self.corrections) if int(bound.max()) <= LARGEST_FLOAT_INTEGER else None

    def _best_tile(self) -> Tile:
        """What the schedule's model picks, with fewer vectors where groups then leave fewer structural zeros."""
        best: Tile = self.schedule.tile(self.isa, self.family, self.shape, self.rule, self.pool)
        counts = {
            blocks: self._narrow(blocks)[0].words for blocks in range(1, best.blocks + 1) if best.blocks % blocks == 0
        }
        blocks = max(blocks for blocks, count in counts.items() if count == min(counts.values()))
        chosen: Tile = self.schedule.tile(self.isa, self.family, self.shape, self.rule, self.pool, blocks=blocks)
        return best if blocks == best.blocks else chosen

    def _narrow(self, blocks: int) -> tuple[ConvShape, npt.NDArray[Any]]:
        """The loop nest and words of a grouped convolution without most structural zeros."""
        shape, words = self.shape, self.words
        if self.layer.operation.geometry.group == 1 or not self.family.builder.windowed:
            return shape, words
        word_channels = self.family.word_elements * (8 if shape.source.kind == "bits" else 1)
        tile_channels = blocks * self.family.channels
        return narrow(shape, words, self.layer.operation, word_channels=word_channels, tile_channels=tile_channels)

    def _fitting(self, counts: Sequence[int]) -> list[int]:
        """Vectors of channels that a tile may have, of `counts`; at least [1].

        Whether a later layer reads bits decides how far channels are rounded up: a tile must fit both ways.
        """
        sizes = [-(-round_up(self.outputs, align) // self.family.channels) for align in (16, 32)]
        most = self.family.most_blocks(self.shape)
        return [n for n in counts if 0 < n <= most and all(size % n == 0 for size in sizes)] or [1]

    def _check_range(self) -> None:
        if not self.exact or self.layer.quantizer is None:
            return
        bound = int(pack.sum_bound(self.layer.operation, self.layer.quantizer).max())
        if bound > LARGEST_SUM:
            raise UnsupportedError(
                f"node {self.layer.region.name!r}: integer sums reach {bound}, expected at most {LARGEST_SUM}; "
                "snap the bases to smaller integers or split the layer"
            )

    def _is_depthwise(self) -> bool:
        """Whether each output channel reads its own input channel, from pixels of at least one vector."""
        form = self.layer.source.form
        wide = form is not None and form.padded_channels >= self.isa.lanes
        return wide and is_depthwise(self.layer.operation)

    def _basis_rows(self, dtype: str) -> npt.NDArray[Any]:
        """The weight basis as the epilogue reads it, one row of channels for each plane."""
        planes = max(self.rule.weight_basis, self.basis.shape[1])
        planes += self.rule.mask_plane >= 0
        rows = np.zeros((planes, self.channels), dtype)
        rows[: self.basis.shape[1], : self.outputs] = self.basis.T
        return rows.ravel()

    def _mode(self) -> str:
        if not self.exact:
            return "float32"
        single = is_integer(self.layer.operation, self.layer.quantizer) or self.sums.one_pair()
        thresholds = all(is_monotone((*self.stages, *output.stages)) for output, _ in self.layer.stores)
        quantized = all(
            isinstance(output.value.quantizer, Quantizer) and output.value.holds_codes
            for output, _ in self.layer.stores
        )
        if not thresholds or not quantized:
            return "float64"
        return "integer" if single else "real"

    def _epilogue(self) -> tuple[Epilogue, list[npt.NDArray[Any]]]:
        layer = self.layer
        if self.mode == "integer":
            return integer_epilogue(self.sums, self.corrections, self.stages, layer.stores, self.channels)
        if self.mode == "real":
            return real_epilogue(self.sums, self.stages, layer.stores, self.channels)
        integer = self.mode == "float64" and is_integer(layer.operation, layer.quantizer)
        scaled = integer and not layer.plain_sums
        stages = (*(self.sums.stages(self.corrections) if scaled else ()), *self.stages)
        steps = make_steps(stages, [tensor.form for tensor in layer.residuals if tensor.form is not None])
        arrays = step_parameters(stages, self.channels)
        stores = []
        for output, tensor in layer.stores:
            store, parameters = make_stream_store(output, tensor, self.channels)
            stores.append(store)
            arrays += parameters
        kind: Any = self.mode
        return Epilogue(mode=kind, steps=steps, stores=tuple(stores)), arrays

    def _shape(self) -> ConvShape:
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
            words=self.words.shape[4],
            weight_planes=self.words.shape[1],
            pool=self.pool,
        )
        nest: ConvShape = self.family.nest(shape)
        return nest

    def _workspace(self, shape: ConvShape, key: str) -> tuple[Tensor, ...]:
        size = self.family.workspace(shape, self.rule)
        return (Tensor(key=key, dtype="int32", size=size),) if size else ()

    def _sums_kernel(self, plain: ConvShape, tile: Tile, operands: tuple[npt.NDArray[Any], ...]) -> SumsKernel:
        layer, operation, rule = self.layer, self.layer.operation, self.rule
        epilogue = Epilogue(mode="sums", steps=(), stores=())
        name = f"{self.name}_sums"
        function = self._contraction(plain, tile, epilogue, parallel=False)
        ((dtype, size),) = output_shapes(plain, rule, epilogue, self.isa)
        outputs = (
            *self._workspace(plain, f"{name}.counts"),
            Tensor(key=f"{name}.out", dtype=dtype, size=size),
        )
        multipliers = None
        weights, quantizer = operation.weights, layer.quantizer
        if layer.family not in BYTE_FAMILIES and is_integer(operation, quantizer):
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
            signs=np.where(self.sums.flips, -1, 1).astype(np.int32),
            corrections=self.corrections.astype(np.int32),
            multipliers=multipliers,
            single=layer.family in BYTE_FAMILIES,
        )


def _turned(stages: tuple[Stage, ...], flips: npt.NDArray[np.bool_]) -> tuple[Stage, ...]:
    """The stages for sums that are negated in the channels `flips`: the first affine map turns them back."""
    first = next((i for i, stage in enumerate(stages) if isinstance(stage, Affine)), None)
    if first is None or not flips.any():
        return stages
    stage = stages[first]
    if not isinstance(stage, Affine):
        raise TypeError("only affine maps turn sums back")
    return (*stages[:first], replace(stage, scale=np.where(flips, -stage.scale, stage.scale)), *stages[first + 1 :])
