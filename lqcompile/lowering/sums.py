"""What the integer sums of a contraction mean: the real values they stand for, in the canonical arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lqcompile.graph.plan import Affine, AnyQuantizer, Contraction, Stage, is_integer
from lqcompile.graph.specs import Int8Weights, LowBitWeights, Quantizer, UniformQuantizer
from lqcompile.lowering.families import BYTE_FAMILIES
from lqcompile.lowering.outputs import zero_code
from lqcompile.schedules.formats import Kind


@dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
    """The sums that a kernel forms for a contraction.

    Args:
        operation: the contraction.
        quantizer: of the codes it reads, None for float32.
        family: kernel family.
        kind: how the codes are stored.
        flips: channels that are computed with negated weights, bool[O].
        pooled: whether the kernel takes maxima of the sums.
    """

    operation: Contraction
    quantizer: AnyQuantizer | None
    family: str
    kind: Kind
    flips: npt.NDArray[np.bool_]
    pooled: bool

    @property
    def outputs(self) -> int:
        """Number of output channels O."""
        return self.operation.out_shape[0]

    def one_pair(self) -> bool:
        """Whether there is one plane pair and no offset: y rises or falls with the one integer S.

        A fused max-pooling takes the maximum of S, so y must then rise.
        """
        weights, quantizer = self.operation.weights, self.quantizer
        if not isinstance(weights, LowBitWeights) or not isinstance(quantizer, Quantizer):
            return False
        plain = not weights.offset.any() and not quantizer.offset
        if self.family in BYTE_FAMILIES or weights.bits != 1 or quantizer.bits != 1 or not plain:
            return False
        return not self.pooled or not bool((weights.basis * quantizer.basis < 0).any())

    def inner_only(self) -> bool:
        """Whether thresholds apply to ``sum_j u_j S_j`` itself: one weight plane, and no pooling that v would turn."""
        weights = self.operation.weights
        if not isinstance(weights, LowBitWeights) or weights.bits != 1 or weights.offset.any():
            return False
        return not self.pooled or not bool((weights.basis < 0).any())

    def scales(self) -> npt.NDArray[np.float64]:
        """``s_w * s_a`` of an integer contraction: float64[O].

        Raises:
            TypeError: the contraction has no integer weights on codes.
        """
        weights, quantizer = self.operation.weights, self.quantizer
        if not isinstance(weights, Int8Weights | LowBitWeights) or quantizer is None:
            raise TypeError("scales belong to integer contractions")
        scales: npt.NDArray[np.float64] = weights.scale.astype(np.float64) * np.float64(np.float32(quantizer.scale))
        return scales

    def corrections(self, surplus: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """What the stored zero point and the kernel family add to the integer sum: int64[O], flipped ones negated.

        Args:
            surplus: what the family adds, int64[O].
        """
        weights, quantizer = self.operation.weights, self.quantizer
        if not isinstance(weights, Int8Weights) or not isinstance(quantizer, UniformQuantizer):
            return surplus
        total = weights.values.astype(np.int64).reshape(self.outputs, -1).sum(axis=1)
        signed: npt.NDArray[np.int64] = np.where(self.flips, -total, total) * zero_code(quantizer, self.kind)
        return signed + surplus

    def stages(self, corrections: npt.NDArray[np.int64]) -> tuple[Stage, ...]:
        """What makes y of an integer sum that `corrections` were added to."""
        scaling = Affine(scale=self.scales(), shift=np.zeros(self.outputs))
        if not corrections.any():
            return (scaling,)
        return Affine(scale=np.ones(self.outputs), shift=-corrections.astype(np.float64)), scaling

    def real(self, sums: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Real value of integer sums, in the canonical order: int64[O, L] -> float64[O, L]."""
        weights, quantizer = self.operation.weights, self.quantizer
        if not self.one_pair() or not isinstance(weights, LowBitWeights) or not isinstance(quantizer, Quantizer):
            return sums.astype(np.float64) * self.scales()[:, None]
        if is_integer(self.operation, quantizer):
            total = sums * weights.basis.astype(np.int64) * int(quantizer.basis[0])
            return total.astype(np.float64) * self.scales()[:, None]
        basis = weights.scale[:, None].astype(np.float64) * weights.basis.astype(np.float64)
        inner = float(quantizer.scale) * float(quantizer.basis[0]) * sums.astype(np.float64)
        real: npt.NDArray[np.float64] = basis * inner
        return real

    def falls(self) -> npt.NDArray[np.bool_]:
        """Channels in which y falls as the sum rises: bool[O]."""
        probe: npt.NDArray[np.bool_] = self.real(np.ones((self.outputs, 1), np.int64))[:, 0] < 0
        return probe
