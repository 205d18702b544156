"""What a contraction kernel is asked for: the loop nest, its tile, how sums combine, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .epilogue import Epilogue
from .formats import Format
from .isa import Isa

PARALLEL_MIN_US = 10.0
"""Estimated time under which a kernel runs serially; starting threads takes 2 to 4 (benchmarks/threads.py)."""

CLOCK_GHZ = 3.0
"""Of the estimates."""

EPILOGUE_CYCLES = 30.0
"""Of one vector through an epilogue, roughly."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Which words of a pixel a tile of output channels reads, in a grouped convolution.

    Args:
        outputs, inputs: channels of a group.
        word_channels: input channels of a word.
        tile_channels: output channels of a tile.
        last_word: where a window can start at most.
    """

    outputs: int
    inputs: int
    word_channels: int
    tile_channels: int
    last_word: int = 0

    def first_word(self, tile: Any) -> Any:
        """First word (a number or an expression) of the first group in tile number `tile`."""
        return tile * self.tile_channels // self.outputs * self.inputs // self.word_channels


@dataclass(frozen=True, kw_only=True)
class ConvShape:
    """The loop nest.

    Args:
        source: format of the input.
        kernel, strides, dilations: (rows, columns).
        origin: (row, column) of the first tap of output (0, 0), counted in the padded input.
        out_height, out_width: of the convolution, before pooling.
        blocks: vectors of output channels, `lanes` each.
        words: words of one tap (one plane).
        weight_planes: planes of the weights, mask planes included.
        pool: window and stride of a fused max-pooling, (1, 1) for none.
        window: which words of a tap a tile reads, None for all.
    """

    source: Format
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    origin: tuple[int, int]
    out_height: int
    out_width: int
    blocks: int
    words: int
    weight_planes: int = 1
    pool: tuple[int, int] = (1, 1)
    window: Window | None = None

    @property
    def tile_rows(self) -> int:
        """Rows of tiles: output rows after pooling."""
        return self.out_height // self.pool[0]

    @property
    def tile_columns(self) -> int:
        """Output columns after pooling."""
        return self.out_width // self.pool[1]


CHANNELS_OUTERMOST, ROWS_OUTERMOST = 0, 1
"""Orders of tasks (`Tile.order`): weights are read once and the input for each tile of channels, or the other way."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Register tile.

    Args:
        pixels: outputs (after pooling).
        blocks: vectors of the family's channels.
        unroll: words of a tap that one turn of the loop takes, as far as their number divides by it; on tensor cores,
            slices of the depth.
        split: groups of warps that share the depth, on tensor cores.
        order: of the tasks of a nest with rows of tiles and several tiles of channels, and so the axis of which threads
            get equal parts: CHANNELS_OUTERMOST or ROWS_OUTERMOST. Records without it are of the first.
    """

    pixels: int
    blocks: int
    unroll: int = 1
    split: int = 1
    order: int = CHANNELS_OUTERMOST


@dataclass(frozen=True, kw_only=True)
class SumRule:
    """How plane pairs become the value that the epilogue takes.

    Args:
        act_planes: planes of the input that are used.
        bipolar: sums are ``2 * P - C`` (bit planes); otherwise the accumulator is the sum.
        mask_plane: weight plane that counts C in its own lanes (grouped convolution), -1 for the shared count.
        act_integers: integer multipliers n_j of the planes, where both bases are integers.
        act_basis: float64 u_j, where they are not.
        weight_basis: planes that have a basis vector (mask planes have none).
        weighted: sums are multiplied by m_i or v_i; False where the sum over activation planes is taken as it is.
        signed_planes: weight planes of a weight-only layer; their bits are the signs of float32 activations.
    """

    act_planes: int = 1
    bipolar: bool = False
    mask_plane: int = -1
    act_integers: tuple[int, ...] = ()
    act_basis: tuple[float, ...] = ()
    weight_basis: int = 1
    weighted: bool = True
    signed_planes: int = 0


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A contraction to build.

    Args:
        shape: loop nest.
        tile: register tile.
        rule: how sums combine.
        epilogue: what takes the values.
        parallel: whether threads may share it.
    """

    shape: ConvShape
    tile: Tile
    rule: SumRule
    epilogue: Epilogue
    parallel: bool = True


def estimated_us(steps: float, cycles: float, vectors: float) -> float:
    """Rough time of a kernel on one core: `steps` of `cycles` each, then `vectors` of outputs through the epilogue."""
    return (steps * cycles + vectors * EPILOGUE_CYCLES) / (1e3 * CLOCK_GHZ)


def workspace_size(shape: ConvShape, rule: SumRule) -> int:
    """int32 elements of the counts workspace: one per conv output pixel and activation plane, 0 if not needed.

    Windows of more than one pixel add up counts of input pixels, which follow.
    """
    if not rule.bipolar or rule.mask_plane >= 0:
        return 0
    pixels = shape.out_height * shape.out_width
    if shape.kernel != (1, 1):
        pixels += shape.source.padded_height * shape.source.padded_width
    return pixels * rule.act_planes


def basis_dtype(rule: SumRule, epilogue: Epilogue) -> str | None:
    """Dtype of the weight-basis parameter, None where there is none."""
    if rule.signed_planes:
        return "float32"
    if epilogue.mode in ("sums", "float32"):
        return None
    if rule.act_integers:
        return "int32" if rule.weighted else None
    return "float64" if rule.act_basis and rule.weighted else None


def parameter_shapes(epilogue: Epilogue, channels: int) -> list[tuple[str, int]]:
    """(dtype, elements) of the epilogue parameters for `channels` physical channels."""
    return [(dtype, channels * rows) for dtype, rows in epilogue.parameters()]


def output_shapes(shape: ConvShape, rule: SumRule, epilogue: Epilogue, isa: Isa) -> list[tuple[str, int]]:
    """(dtype, elements) of the outputs; sums are int32[weight basis, act planes, OH, OW, channels]."""
    if epilogue.mode == "sums":
        pixels = shape.out_height * shape.out_width
        return [("int32", rule.weight_basis * rule.act_planes * pixels * shape.blocks * isa.lanes)]
    return [(item.format.dtype, item.format.size) for item in epilogue.stores]
