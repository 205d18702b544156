"""The main job: from an ONNX file to an artifact."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lqcompile
from lqcompile import cpu
from lqcompile.artifact import write_artifact
from lqcompile.errors import BuildError
from lqcompile.facts import layer_facts, region_facts
from lqcompile.files import check_writable
from lqcompile.graph.check import load_checked
from lqcompile.graph.fuse import make_plan
from lqcompile.graph.plan import Contraction, Plan
from lqcompile.graph.specs import FloatWeights, Int8Weights, LowBitWeights
from lqcompile.lowering.choose import FLOAT_FAMILIES, Choice
from lqcompile.lowering.driver import Driver
from lqcompile.lowering.lower import lower
from lqcompile.lowering.outputs import describe, describe_sums
from lqcompile.lowering.program import Program, Tensor
from lqcompile.records.apply import apply_records, shipped_records
from lqcompile.records.tuned import read_tuned
from lqcompile.schedules.problem import Tile
from lqcompile.select import HERE, Machine, measurable, select_kernels
from lqcompile.target import Target, expand, find, with_samples

TOOLS = ("apache-tvm", "apache-tvm-ffi", "onnx", "onnx-ir", "numpy", "ziglang")

BACKENDS = {"cuda": "lqcompile.cuda.build"}
"""What makes code for machines that are no CPUs."""

Progress = Callable[[str, float], None]

Selection = Literal["table", "measure"]

LOWERING = 0.2
"""Share of what is left of a build that lowering takes; generating code takes the rest."""

MEASURING = 0.7
"""Share of the time of a build that measuring takes."""


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What was built.

    Args:
        artifact: the file.
        target: name of the target.
        seconds: wall time.
        onnx_bytes: size of the model file.
        packed_weights_bytes: low-bit and 8-bit weights, packed.
        artifact_bytes: size of the artifact.
        layers: of the most demanding variant that was chosen for by measurement or by records, or of the most demanding
            of all: name, op, weight_bits, act_bits, kernel and reason of each contraction, and the candidates that were
            timed.
        variants: names, from the least to the most demanding.
        measured: names of the variants whose kernels were chosen by measurement.
        records: by name of each variant for which there are tuning records: the layers that got the kernel of one, and
            those whose records do not hold here, by the reason.
    """

    artifact: Path
    target: str
    seconds: float
    onnx_bytes: int
    packed_weights_bytes: int
    artifact_bytes: int
    layers: tuple[dict[str, Any], ...]
    variants: tuple[str, ...]
    measured: tuple[str, ...]
    records: dict[str, dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """The report with stable keys."""
        return {
            "artifact": str(self.artifact),
            "target": self.target,
            "seconds": round(self.seconds, 3),
            "bytes": {
                "onnx": self.onnx_bytes,
                "packed_weights": self.packed_weights_bytes,
                "artifact": self.artifact_bytes,
            },
            "layers": list(self.layers),
            "variants": list(self.variants),
            "measured": list(self.measured),
            "records": self.records,
        }


def build(
    model: str | Path,
    *,
    target: str,
    output: str | Path,
    select: Selection = "table",
    measure_on: Machine = HERE,
    records: Sequence[str | Path] = (),
    cpu_model: str | None = None,
    batch: int | None = None,
    strict: bool = False,
    dump_ir: str | Path | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Compiles an ONNX model into one artifact.

    Args:
        model: ONNX file that follows the contract (docs/onnx-contract.md).
        target: name of a target; `lqcompile.target.names` lists them.
        output: the artifact to write; whole or not at all.
        select: how kernels are chosen: by the cost table, or by measuring all candidates (for the variants that the
            machine can run).
        measure_on: this machine, or a board (`lqcompile.rpc.kernels.Board`).
        records: files or folders of tuned kernels; they come before those that are shipped, and after what is measured.
        cpu_model: processor that the artifact is for, by which records are chosen, as `lqcompile.cpu.cpu_model` gives
            it; None for this machine.
        batch: samples that run together, for which kernels of GPUs are measured and records looked up; None for what
            the target says.
        strict: refuse instead of computing a low-bit layer in float32.
        dump_ir: folder for the plan, the Relax module, the driver and the LLVM code of each variant.
        progress: called with what is being done and the share that is done, 0 to 1.

    Raises:
        LQCompileError: the model, the target or the output does not serve; the message says what to do.
    """
    start = time.monotonic()
    path, artifact = Path(model), Path(output)
    tell = progress or (lambda _text, _share: None)
    machine = find(target) if batch is None else with_samples(find(target), batch)
    measured = measurable(machine, measure_on) if select == "measure" else []
    given = [entry for path in records for entry in read_tuned(Path(path))]
    check_writable(artifact)
    tell("reading the model", 0.0)
    plan = make_plan(load_checked(path))
    dump = _Dump(Path(dump_ir)) if dump_ir else None
    if dump:
        dump.write("1_plan.txt", _plan_text(plan))
    data = path.read_bytes()
    variants: list[dict[str, Any]] = []
    members: dict[str, bytes] = {}
    targets = expand(machine)
    recorded = {
        variant.name: apply_records(plan, variant, [*given, *shipped_records(variant)], cpu_model)
        for variant in targets
    }
    choices = _measure(plan, measured, measure_on, tell)
    begin = MEASURING if measured else 0.0
    # TVM and LLVM generate code outside of Python's lock.
    with ThreadPoolExecutor(max_workers=cpu.logical_cores()) as pool:
        lowered = []
        for index, variant in enumerate(targets):
            tell(f"lowering for {variant.name}", begin + (1 - begin) * LOWERING * index / len(targets))
            program = lower(plan, variant, choices={**recorded[variant.name].choices, **choices.get(variant.name, {})})
            if strict:
                _refuse_fallback(plan, program.choices)
            backend = _backend(variant)
            module, driver = backend.lower_program(program)
            if dump:
                dump.write(f"2_relax_{variant.name}.py", module.script())
                dump.write(f"3_driver_{variant.name}.py", driver.module.script())
            made = pool.submit(backend.generate, driver, variant, _writer(dump, variant))
            lowered.append((variant, program, driver, made))
        for index, (variant, program, driver, made) in enumerate(lowered):
            share = LOWERING + (1 - LOWERING) * index / len(targets)
            tell(f"compiling for {variant.name}", begin + (1 - begin) * share)
            library = _add(members, f"lib/{variant.name}.{driver.suffix}", made.result())
            params = _add(members, f"params/{variant.name}.bin", driver.parameters)
            variants.append(_variant(plan, program, driver, variant, library, params))
    tell("writing the artifact", 0.99)
    manifest = _manifest(plan, path, data, machine, variants)
    write_artifact(artifact, manifest, members)
    tell("done", 1.0)
    chosen = {*choices, *(name for name, applied in recorded.items() if applied.choices)}
    return BuildReport(
        artifact=artifact,
        target=machine.name,
        seconds=time.monotonic() - start,
        onnx_bytes=len(data),
        packed_weights_bytes=_packed_bytes(plan),
        artifact_bytes=artifact.stat().st_size,
        layers=tuple(next((v for v in reversed(variants) if v["name"] in chosen), variants[-1])["layers"]),
        variants=tuple(variant.name for variant in targets),
        measured=tuple(choices),
        records={name: found.to_json() for name, found in recorded.items() if found.choices or found.refused},
    )


def _measure(plan: Plan, targets: Sequence[Target], machine: Machine, tell: Progress) -> dict[str, dict[str, Choice]]:
    """Choices by region name, by target name."""
    choices = {}
    for index, variant in enumerate(targets):

        def move(doing: str, done: float, variant: Target = variant, index: int = index) -> None:
            tell(f"{doing} for {variant.name}", MEASURING * (index + done) / len(targets))

        choices[variant.name] = select_kernels(plan, variant, move, machine)
    return choices


def _backend(target: Target) -> Any:
    """The module that makes code for a target: functions `lower_program` and `generate`."""
    return importlib.import_module(BACKENDS.get(target.machine, "lqcompile.codegen"))


def _writer(dump: _Dump | None, target: Target) -> Callable[[str, Callable[[], str]], None]:
    """What a backend calls with the ending of a file to dump and what gives its text."""

    def write(suffix: str, text: Callable[[], str]) -> None:
        if dump:
            dump.write(f"4_{target.name}.{suffix}", text())

    return write


def _add(members: dict[str, bytes], name: str, data: bytes) -> str:
    """The member that holds `data`: variants of the same content share it."""
    shared = next((other for other, held in members.items() if held == data), name)
    members[shared] = data
    return shared


class _Dump:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BuildError(
                f"folder '{folder}': {error.strerror}; give --dump-ir a folder that can be written"
            ) from error

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")


def _refuse_fallback(plan: Plan, choices: dict[str, Choice]) -> None:
    for region in plan.regions:
        operation = region.operation
        if isinstance(operation, Contraction) and choices[region.name].family in FLOAT_FAMILIES:
            if isinstance(operation.weights, FloatWeights):
                continue
            raise BuildError(
                f"node '{region.name}' ({region.op_type}): found no exact kernel ({choices[region.name].reason}), "
                "expected one because of --strict; quantize its input or build without --strict"
            )


def _manifest(plan: Plan, path: Path, data: bytes, target: Target, variants: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "lqcompile": lqcompile.__version__,
        "target": target.name,
        "machine": target.machine,
        "system": target.system,
        "onnx": {"name": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()},
        "tools": {name: importlib.metadata.version(name) for name in TOOLS},
        "inputs": [{"name": value.name, "shape": list(value.shape), "dtype": "float32"} for value in plan.inputs],
        "outputs": [{"name": name, "shape": list(shape), "dtype": "float32"} for name, _, shape in plan.outputs],
        "variants": variants,
    }


def _variant(plan: Plan, program: Program, driver: Driver, target: Target, library: str, params: str) -> dict[str, Any]:
    tensors: dict[str, Tensor] = {tensor.key: tensor for step in program.steps for tensor in step.outputs}
    everything = tensors | {tensor.key: tensor for tensor in (*program.inputs, *program.outputs)}
    regions = {region.name: region for region in plan.regions}
    held = [key for key in driver.offsets if tensors[key].value in plan.values]
    known = {tensors[key].value for key in held}
    spans = []
    for name, first, last in driver.regions:
        region = regions.get(name)
        steps = program.steps[first:last]
        made = {tensor.key for step in steps for tensor in step.outputs}
        read = {key for step in steps for key in step.inputs} - made
        spans.append(
            {
                "name": name,
                "first": first,
                "last": last,
                "reads": [*region.inputs, *region.residuals] if region else [],
                # Only these: another format of the same value may have given its place to another tensor.
                "places": [index for index, key in enumerate(held) if key in read],
                "writes": [output.value.name for output in region.outputs if output.value.name in known]
                if region
                else [],
                **region_facts(region, steps, everything),
            }
        )
    return {
        "name": target.name,
        "requires": list(target.features),
        "library": library,
        "params": params,
        "arena_bytes": driver.arena_bytes,
        "steps": len(program.steps),
        "layers": [_layer(plan, program, name, choice) for name, choice in program.choices.items()],
        "regions": spans,
        "tensors": [describe(tensors[key], plan.values[tensors[key].value or ""], driver.offsets[key]) for key in held],
        "sums": [describe_sums(kernel) for kernel in program.sums],
        **driver.entries,
    }


def _layer(plan: Plan, program: Program, name: str, choice: Choice) -> dict[str, Any]:
    region = next(region for region in plan.regions if region.name == name)
    if not isinstance(region.operation, Contraction):
        raise TypeError(f"region {name} is not a contraction")
    value = plan.values[region.inputs[0]]
    act_bits = value.quantizer.bits if value.quantizer is not None and value.holds_codes else 32
    return {
        "name": name,
        "op": region.op_type,
        "weight_bits": region.operation.weights.bits,
        "act_bits": act_bits,
        "kernel": choice.family,
        "reason": choice.reason,
        "tile": _tile(choice.tile),
        "measured": [
            {"kernel": candidate.family, "tile": _tile(candidate.tile), "us": round(time, 3)}
            for candidate, time in choice.measured
        ],
        "estimates": [{"kernel": family, "times": round(times, 3)} for family, times in choice.estimates],
        **layer_facts(region.operation, [step for step in program.steps if step.region == name]),
    }


def _tile(tile: Tile | None) -> list[int] | None:
    return None if tile is None else [tile.pixels, tile.blocks]


def _packed_bytes(plan: Plan) -> int:
    total = 0
    for region in plan.regions:
        if isinstance(region.operation, Contraction):
            weights = region.operation.weights
            if isinstance(weights, LowBitWeights):
                total += weights.planes.nbytes
            elif isinstance(weights, Int8Weights):
                total += weights.values.nbytes
    return total


def _plan_text(plan: Plan) -> str:
    lines = []
    for region in plan.regions:
        stages = [type(stage).__name__ for stage in region.stages]
        lines.append(f"{region.name} ({region.op_type}) reads {', '.join((*region.inputs, *region.residuals))}")
        lines.append(f"  {type(region.operation).__name__} {' '.join(stages)} -> {region.stream_shape}")
        for output in region.outputs:
            kind = type(output.value.quantizer).__name__ if output.value.quantizer is not None else "float32"
            own = " ".join(type(stage).__name__ for stage in output.stages)
            lines.append(f"  writes {output.value.name}: {own} {kind}{' decoded' if output.value.decoded else ''}")
    return "\n".join(lines) + "\n"
