"""What the loop nests of all contractions on CPUs share: the PrimFunc, its parameters, and tasks for threads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .buffers import declare, fill_halo
from .emitter import Emitter
from .family import Family
from .isa import Expr, Isa
from .problem import (
    PARALLEL_MIN_US,
    Problem,
    basis_dtype,
    estimated_us,
    output_shapes,
    parameter_shapes,
)


class NestBuilder(ABC):
    """Emits the PrimFunc of a contraction.

    Its parameters, in order: input, residuals, packed weights, table (only of families that have one), weight basis
    (float64 or int32 [planes, channels]; only if there is more than one pair or a float64 epilogue of integers),
    epilogue parameters, workspace (only of families that need one), outputs.

    Args:
        family: how words are multiplied.
        problem: what is computed.

    Attributes:
        windowed: whether a tile of a grouped convolution reads a window of the input's words alone.
        tasks: turns of the loop that threads share.
    """

    windowed: ClassVar[bool] = False
    tasks: int

    def __init__(self, family: Any, problem: Problem) -> None:
        self.family: Family = family
        self.isa: Isa = family.isa
        self.problem = problem
        self.shape, self.tile, self.rule, self.epilogue = problem.shape, problem.tile, problem.rule, problem.epilogue
        self.pairs = self.shape.weight_planes * self.rule.act_planes
        self.split: int = family.channels // self.isa.lanes

    @property
    def parallel(self) -> bool:
        """Whether threads share the tasks."""
        return self.problem.parallel and self.tasks > 1 and self.estimated_us() >= PARALLEL_MIN_US

    def build(self) -> Any:
        """The PrimFunc."""
        isa, shape, epilogue = self.isa, self.shape, self.epilogue
        channels = shape.blocks * isa.lanes
        basis = basis_dtype(self.rule, epilogue)
        workspace = self.family.workspace(shape, self.rule)
        with IRBuilder() as builder, T.prim_func():
            T.func_name("contraction")
            T.func_attr({"tirx.noalias": True})
            self.source = T.arg("source", T.buffer((shape.source.size,), shape.source.dtype))
            residuals = declare("residual", [(form.dtype, form.size) for form in epilogue.residuals()])
            self.weights = T.arg("weights", T.buffer((self.weight_size(),), self.family.weight_dtype))
            if self.family.table_size:
                self.table = T.arg("table", T.buffer((self.family.table_size,), "uint8"))
            if basis:
                self.basis = T.arg("basis", T.buffer((self.basis_rows() * channels,), basis))
            parameters = declare("parameter", parameter_shapes(epilogue, channels))
            if workspace:
                self.counts = T.arg("counts", T.buffer((workspace,), "int32"))
            self.outputs = declare("output", output_shapes(shape, self.rule, epilogue, isa))
            self.emitter = Emitter(
                isa, epilogue, parameters=parameters, residuals=residuals, outputs=self.outputs, channels=channels
            )
            if epilogue.mode != "sums":
                for item, output in zip(epilogue.stores, self.outputs, strict=True):
                    fill_halo(output, item.format)
            if workspace:
                self.prepare()
            loop = T.parallel if self.parallel else T.serial
            with loop(0, self.tasks) as index:
                self.task(index)
        return builder.get()

    def estimated_us(self) -> float:
        """Rough time on one core."""
        shape = self.shape
        taps = shape.kernel[0] * shape.kernel[1] * shape.words
        pixels = shape.out_height * shape.out_width
        steps = taps * self.pairs * pixels * -(-shape.blocks // self.split)
        return estimated_us(steps, self.family.cycles, shape.tile_rows * shape.tile_columns * shape.blocks)

    def basis_rows(self) -> int:
        """Rows of the weight basis."""
        return self.shape.weight_planes

    @abstractmethod
    def weight_size(self) -> int:
        """Elements of the packed weights."""

    def prepare(self) -> None:
        """Fills the workspace, where the family has one, before tasks run."""
        raise NotImplementedError(f"{type(self).__name__} has no workspace")

    @abstractmethod
    def task(self, index: Expr) -> None:
        """One task."""
