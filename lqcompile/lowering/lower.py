"""From a fusion plan to a program for one target: formats of all values, and the kernels in order."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lqcompile.errors import UnsupportedError
from lqcompile.graph.plan import (
    AveragePool,
    Concat,
    Contraction,
    Copy,
    Joining,
    MaxPool,
    Output,
    Plan,
    Region,
    Softmax,
    Stage,
    Value,
)
from lqcompile.graph.specs import UniformQuantizer
from lqcompile.lowering.choose import Choice, choose, force
from lqcompile.lowering.layers import Layer, fused_pool, lower_layer, saved_on_cells, sum_stages
from lqcompile.lowering.outputs import make_format, make_quantizer, make_steps, make_stream_store, step_parameters
from lqcompile.lowering.parameters import per_channel, scale_signs
from lqcompile.lowering.program import Program, Step, SumsKernel, Tensor
from lqcompile.schedules.elementwise import Window
from lqcompile.schedules.epilogue import Epilogue, UniformStep
from lqcompile.schedules.formats import Format, Kind, round_up
from lqcompile.target import Target

Halo = tuple[int, int, int, int]

KINDS: dict[str, Kind] = {
    "popcount": "bits",
    "lut": "bits",
    "planes": "bits",
    "b1mma": "bits",
    "b1wgmma": "bits",
    "dot8": "u8",
    "i8mma": "u8",
    "float": "f32",
    "packed": "f32",
}
"""What each kernel family reads."""

INPUT_CHANNELS = 4
"""Most channels of a graph input that is quantized straight to one 32-bit word per pixel."""


def lower(
    plan: Plan,
    target: Target,
    *,
    families: Mapping[str, str] | None = None,
    choices: Mapping[str, Choice] | None = None,
) -> Program:
    """Lowers a plan for one target (without variants).

    Args:
        plan: to lower.
        target: one without variants.
        families: kernel family by region name, in place of the cost table's choice.
        choices: family and tile by region name, from a measurement; `families` come first.

    Raises:
        UnsupportedError: a region that no kernel serves, or not the one asked for; the message names it.
    """
    return _Lower(plan, target, dict(families or {}), dict(choices or {})).program()


def contraction_layers(plan: Plan, target: Target, families: Mapping[str, str] | None = None) -> dict[str, Layer]:
    """The contractions of a plan by region name, with formats and families as given or as the cost table chooses."""
    lowered = _Lower(plan, target, dict(families or {}), {})
    lowered.program()
    return lowered.layers


@dataclass(eq=False)
class _Lower:
    plan: Plan
    target: Target
    families: dict[str, str]
    choices: dict[str, Choice]
    layers: dict[str, Layer] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    sums: list[SumsKernel] = field(default_factory=list)
    halos: dict[tuple[str, Kind], Halo] = field(default_factory=dict)
    tensors: dict[tuple[str, Kind], Tensor] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def program(self) -> Program:
        self.schedule = importlib.import_module(f"lqcompile.schedules.{self.target.schedule}")
        self.isa = self.schedule.machine(self.target)
        self.maps = self.schedule.maps
        inputs = tuple(
            Tensor(key=f"input_{index}", dtype="float32", size=int(np.prod(value.shape)), value=value.name)
            for index, value in enumerate(self.plan.inputs)
        )
        self.inputs = {value.name: tensor for value, tensor in zip(self.plan.inputs, inputs, strict=True)}
        self._choose()
        self._require()
        for region in self.plan.regions:
            self._region(region)
        outputs = tuple(
            Tensor(key=f"output_{index}", dtype="float32", size=int(np.prod(shape)), value=name)
            for index, (_, name, shape) in enumerate(self.plan.outputs)
        )
        for tensor in outputs:
            source = self._tensor(str(tensor.value), "f32", tensor.key)
            function = self.maps.to_nchw(self._form(source))
            self._step(f"egress_{tensor.key}", tensor.key, function, [source], [], [tensor])
        return Program(
            inputs=inputs,
            outputs=outputs,
            steps=tuple(self.steps),
            sums=tuple(self.sums),
            choices=self.choices,
        )

    def _value(self, name: str) -> Value:
        return self.plan.values[name]

    def _choose(self) -> None:
        for region in self.plan.regions:
            if isinstance(region.operation, Contraction):
                value = self._value(region.inputs[0])
                quantizer = value.quantizer if value.holds_codes else None
                if region.name in self.families:
                    self.choices[region.name] = force(
                        region, region.operation, quantizer, self.families[region.name], self.target.name
                    )
                elif region.name not in self.choices:
                    self.choices[region.name] = choose(region.operation, quantizer, self.target.name)

    def _require(self) -> None:
        """Collects the formats that each value is read in, with the widest halo that a reader needs."""
        for region in self.plan.regions:
            operation = region.operation
            if isinstance(operation, Contraction):
                kind = KINDS[self.choices[region.name].family]
                self._need(region.inputs[0], kind, operation.geometry.pads)
            elif not (isinstance(operation, Concat) and operation.of_codes):
                for name in region.inputs:
                    self._need(name, "f32", (0, 0, 0, 0))
            for name in region.residuals:
                self._need(name, "f32", (0, 0, 0, 0))
        for _, name, _ in self.plan.outputs:
            self._need(name, "f32", (0, 0, 0, 0))
        for region in reversed(self.plan.regions):
            if isinstance(region.operation, Concat) and region.operation.of_codes:
                for kind in self._kinds(region.outputs[0].value.name):
                    for name in region.inputs:
                        self._need(name, kind, (0, 0, 0, 0))

    def _need(self, name: str, kind: Kind, halo: Halo) -> None:
        old = self.halos.get((name, kind), (0, 0, 0, 0))
        self.halos[name, kind] = (
            max(old[0], halo[0]),
            max(old[1], halo[1]),
            max(old[2], halo[2]),
            max(old[3], halo[3]),
        )

    def _kinds(self, name: str) -> list[Kind]:
        """The kinds of format that a value is read in."""
        return [kind for other, kind in self.halos if other == name]

    def _formats(self, value: Value) -> list[Tensor]:
        """The tensors that the region which makes `value` must write."""
        found = []
        for (name, kind), halo in self.halos.items():
            if name == value.name:
                found.append(self._make_tensor(value, kind, halo))
        return found

    def _make_tensor(self, value: Value, kind: Kind, halo: Halo) -> Tensor:
        form = make_format(value, kind, halo, self.isa.lanes)
        key = self._unique(f"{value.name}_{kind}")
        tensor = Tensor(key=key, dtype=form.dtype, size=form.size, value=value.name, form=form)
        self.tensors[value.name, kind] = tensor
        return tensor

    def _tensor(self, name: str, kind: Kind, region: str) -> Tensor:
        """The tensor of a value in a format; a graph input is brought into it first."""
        if (name, kind) not in self.tensors and name in self.inputs:
            tensor = self._make_tensor(self._value(name), kind, self.halos[name, kind])
            self._step("ingest", region, self.maps.to_nhwc(self._form(tensor)), [self.inputs[name]], [], [tensor])
        return self.tensors[name, kind]

    def _unique(self, name: str) -> str:
        base = re.sub(r"\W", "_", name)
        candidate, count = base, 1
        while candidate in self.used:
            candidate, count = f"{base}_{count}", count + 1
        self.used.add(candidate)
        return candidate

    def _step(
        self,
        name: str,
        region: str,
        function: Any,
        inputs: list[Tensor],
        constants: list[npt.NDArray[Any]],
        outputs: list[Tensor],
    ) -> None:
        step = Step(
            name=self._unique(f"kernel_{name}"),
            region=region,
            function=function,
            inputs=tuple(tensor.key for tensor in inputs),
            constants=tuple(constants),
            outputs=tuple(outputs),
        )
        self.steps.append(step)

    def _form(self, tensor: Tensor) -> Format:
        if tensor.form is None:
            raise TypeError(f"tensor {tensor.key} has no format")
        return tensor.form

    def _region(self, region: Region) -> None:
        stores = [(output, tensor) for output in region.outputs for tensor in self._formats(output.value)]
        if isinstance(region.operation, Contraction):
            self._contraction(region, region.operation, stores)
        elif isinstance(region.operation, Concat) and region.operation.of_codes:
            self._join_codes(region, stores)
        elif isinstance(region.operation, Concat):
            self._concat(region, stores)
        elif isinstance(region.operation, Softmax):
            self._softmax(region, stores)
        else:
            self._map(region, stores)

    def _contraction(self, region: Region, operation: Contraction, stores: list[tuple[Output, Tensor]]) -> None:
        value = self._value(region.inputs[0])
        family = self.choices[region.name].family
        source = self._tensor(value.name, KINDS[family], region.name)
        pooled = any(isinstance(stage, MaxPool) for stage in region.stages)
        unfused = pooled and fused_pool(operation.weights, region.stages) is None
        stages, written = region.stages, stores
        if unfused:
            stages = self._without_pool(region)
            temporary = self._temporary(region, operation.out_shape)
            written = [(Output(value=Value(name=f"{region.name}:before_pool", shape=operation.out_shape)), temporary)]
        layer = Layer(
            region=region,
            operation=operation,
            family=family,
            quantizer=value.quantizer if value.holds_codes else None,
            source=source,
            stages=stages,
            stores=tuple(written),
            residuals=tuple(self._tensor(name, "f32", region.name) for name in region.residuals),
            tile=self.choices[region.name].tile,
        )
        behind: tuple[Stage, ...] = ()
        own = sum_stages(layer, self.target, self.schedule) if unfused and not region.residuals else None
        if own is not None:
            # Every stage rises or falls with the sum: it runs behind the pooling, on fewer pixels.
            behind = (*own, *stages)
            layer = replace(layer, stages=(), plain_sums=True)
        self.layers[region.name] = layer
        step, sums = lower_layer(layer, self.target, self.schedule, self._unique(f"kernel_{region.name}"))
        self.steps.append(step)
        if step.fewer:
            choice = self.choices[region.name]
            self.choices[region.name] = replace(choice, reason=f"{choice.reason}; {step.fewer.reason}")
        if sums:
            self.sums.append(sums)
        if unfused:
            at, pool = next((i, stage) for i, stage in enumerate(region.stages) if isinstance(stage, MaxPool))
            # A minimum where the affine maps that it has changed places with reverse the order.
            passed = (*own, *region.stages[:at]) if own is not None else region.stages[at + 1 :]
            signs = scale_signs(passed)
            turned = signs if signs is not None and signs.any() else None
            self._window(region, written[0][1], pool, turned, behind, stores)

    def _without_pool(self, region: Region) -> tuple[Stage, ...]:
        """The stages but for a max-pooling that runs in a kernel of its own."""
        at = [index for index, stage in enumerate(region.stages) if isinstance(stage, MaxPool)]
        behind = region.stages[at[0] + 1 :]
        pool = region.stages[at[0]]
        if len(at) > 1 or any(isinstance(stage, Joining) for stage in behind) or not isinstance(pool, MaxPool):
            raise UnsupportedError(
                f"node {region.name!r}: found a second max-pooling or a residual sum behind an overlapping max-pooling "
                "in one chain, expected one of them; give the tensor between them a second consumer or reorder them"
            )
        return tuple(stage for stage in region.stages if stage is not pool)

    def _temporary(self, region: Region, shape: tuple[int, ...]) -> Tensor:
        value = Value(name=f"{region.name}:temporary", shape=shape)
        form = make_format(value, "f32", (0, 0, 0, 0), self.isa.lanes)
        return Tensor(key=self._unique(value.name), dtype=form.dtype, size=form.size, form=form)

    def _window(
        self,
        region: Region,
        source: Tensor,
        pool: MaxPool | AveragePool | None,
        signs: npt.NDArray[np.bool_] | None,
        stages: tuple[Stage, ...],
        stores: list[tuple[Output, Tensor]],
    ) -> None:
        """A map kernel: optional window, stages, outputs."""
        form = self._form(source)
        channels = round_up(form.channels, self.isa.lanes)
        window = None
        arrays: list[npt.NDArray[Any]] = []
        if pool is not None:
            window = Window(
                kernel=pool.kernel,
                strides=pool.strides,
                pads=pool.pads,
                average=isinstance(pool, AveragePool),
                count_include_pad=isinstance(pool, AveragePool) and pool.count_include_pad,
                signed=signs is not None,
            )
            if signs is not None:
                arrays.append(per_channel(np.where(signs, -1.0, 1.0), channels, "float32", 1.0))
        residuals = [self._tensor(stage.name, "f32", region.name) for stage in stages if isinstance(stage, Joining)]
        steps = make_steps(stages, [self._form(tensor) for tensor in residuals])
        arrays += step_parameters(stages, channels)
        made = [make_stream_store(output, tensor, channels) for output, tensor in stores]
        for _, parameters in made:
            arrays += parameters
        average = isinstance(pool, AveragePool)
        epilogue = Epilogue(
            mode="float64" if average else "float32",
            steps=steps,
            stores=tuple(store for store, _ in made),
        )
        height, width = (*region.stream_shape, 1, 1)[1:3]
        function = self.maps.mapped(self.isa, form, window, epilogue, height, width)
        self._step(region.name, region.name, function, [source, *residuals], arrays, [tensor for _, tensor in stores])

    def _map(self, region: Region, stores: list[tuple[Output, Tensor]]) -> None:
        if self._quantize_input(region, stores):
            return
        pool: MaxPool | AveragePool | None = None
        stages = region.stages
        if isinstance(region.operation, AveragePool):
            pool = region.operation
        elif isinstance(region.operation, Copy) and stages and isinstance(stages[0], MaxPool):
            pool, stages = stages[0], stages[1:]
        if any(isinstance(stage, MaxPool) for stage in stages):
            raise UnsupportedError(
                f"node {region.name!r} ({region.op_type}): found a max-pooling behind other stages of one chain "
                "without a convolution, expected it first; give the tensor before it a second consumer"
            )
        source = self._tensor(region.inputs[0], "f32", region.name)
        self._window(region, source, pool, None, stages, stores)

    def _quantize_input(self, region: Region, stores: list[tuple[Output, Tensor]]) -> bool:
        """Quantizes a narrow graph input straight to its integers, where that is all the region does."""
        name = region.inputs[0]
        if name not in self.inputs or region.stages or len(stores) != 1 or not isinstance(region.operation, Copy):
            return False
        output, tensor = stores[0]
        quantizer, form = output.value.quantizer, self._form(tensor)
        narrow = form.kind == "u8" and form.channels <= INPUT_CHANNELS and form.width >= self.isa.lanes
        if output.stages or not narrow or not isinstance(quantizer, UniformQuantizer):
            return False
        packed = self._image_format(form, str(tensor.value))
        step = make_quantizer(quantizer, packed.kind)
        if not isinstance(step, UniformStep):
            raise TypeError("a uniform quantizer gives a uniform step")
        narrowed = Tensor(key=tensor.key, dtype=packed.dtype, size=packed.size, value=tensor.value, form=packed)
        self.tensors[str(tensor.value), "u8"] = narrowed
        function = self.maps.quantize_input(self.isa, packed, step)
        self._step(region.name, region.name, function, [self.inputs[name]], [], [narrowed])
        return True

    def _image_format(self, form: Format, name: str) -> Format:
        """The format of a narrow image: bytes, one word to a pixel, or 16 bits for kernels that read rows of taps."""
        regions = [region for region in self.plan.regions if name in region.inputs]
        readers = [region.operation for region in regions]
        plain = all(
            isinstance(reader, Contraction) and reader.geometry.group == 1 and reader.geometry.dilations[1] == 1
            for reader in readers
        )
        if not plain or self.schedule.image_kind(self.isa, lambda: min(map(saved_on_cells, regions))) == "u8":
            return replace(form, align=INPUT_CHANNELS)
        top, left, bottom, right = form.halo
        # The last word of a row of taps may end behind it, and so may the last cell of pixels.
        geometries = [reader.geometry for reader in readers if isinstance(reader, Contraction)]
        more = max([1, *(-geometry.kernel[1] % geometry.strides[1] for geometry in geometries)])
        return replace(form, kind="i16", align=1, halo=(top, left, bottom, right + more), pad=0)

    def _concat(self, region: Region, stores: list[tuple[Output, Tensor]]) -> None:
        sources = [self._tensor(name, "f32", region.name) for name in region.inputs]
        target = self._temporary(
            region, (sum(self._form(tensor).channels for tensor in sources), *region.stream_shape[1:])
        )
        function = self.maps.concat([self._form(tensor) for tensor in sources], self._form(target))
        self._step(f"{region.name}_join", region.name, function, sources, [], [target])
        self._window(region, target, None, None, region.stages, stores)

    def _join_codes(self, region: Region, stores: list[tuple[Output, Tensor]]) -> None:
        """Joins codes as they are packed, once for each format that is read."""
        for _, target in stores:
            form = self._form(target)
            sources = [self._tensor(name, form.kind, region.name) for name in region.inputs]
            join = self.maps.join_bits if form.kind == "bits" else self.maps.concat
            function = join([self._form(tensor) for tensor in sources], form)
            self._step(f"{region.name}_join", region.name, function, sources, [], [target])

    def _softmax(self, region: Region, stores: list[tuple[Output, Tensor]]) -> None:
        source = self._tensor(region.inputs[0], "f32", region.name)
        target = self._temporary(region, region.stream_shape)
        function = self.maps.softmax(self._form(source), self._form(target))
        self._step(f"{region.name}_exp", region.name, function, [source], [], [target])
        self._window(region, target, None, None, region.stages, stores)
