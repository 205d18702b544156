"""``lqcompile report``."""

from __future__ import annotations

import datetime
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lqcompile.cli.console import JsonOption, ProgressCallback, print_json, print_text, progress_bar
from lqcompile.cli.measuring import (
    DEFAULT_LIMIT_S,
    AlternativesOption,
    BatchOption,
    EmulatedOption,
    InputOption,
    LimitOption,
    Request,
    ThreadsOption,
    profile_artifact,
)
from lqcompile.cli.opening import SamplesOption, SeedOption, compiled_model, samples_for
from lqcompile.cli.reaching import DEFAULT_TIMEOUT, KeyOption, RpcOption, TimeoutOption, TrackerOption, board

if TYPE_CHECKING:
    from lqcompile.rpc.device import Device

EXAMPLE = "Example: lqcompile report model.tar --model model.onnx --samples images.npz -o report.html"

_NEEDED = ("jinja2", "matplotlib")


def report(
    source: Annotated[
        Path, typer.Argument(help="Artifact, or what 'lqcompile profile --json' printed.", show_default=False)
    ],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Page to write (default: SOURCE with .html).")
    ] = None,
    model: Annotated[Path | None, typer.Option("--model", help="ONNX file of the artifact: also verify it.")] = None,
    alternatives: AlternativesOption = False,
    samples: SamplesOption = None,
    random: Annotated[int, typer.Option("--random", metavar="N", min=1, help="Random samples without --samples.")] = 16,
    verified: Annotated[
        Path | None, typer.Option("--verified", metavar="JSON", help="What 'lqcompile verify --json' printed.")
    ] = None,
    benched: Annotated[
        Path | None, typer.Option("--benched", metavar="JSON", help="What 'lqcompile bench --json' printed.")
    ] = None,
    inputs: InputOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = 1,
    batch: BatchOption = None,
    limit: LimitOption = DEFAULT_LIMIT_S,
    emulated: EmulatedOption = False,
    rpc: RpcOption = None,
    tracker: TrackerOption = None,
    key: KeyOption = "",
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    json_output: JsonOption = False,
) -> None:
    """Write one page on an artifact: where its time goes, why these kernels, how close to the machine's limits."""
    from lqcompile.artifact import is_artifact
    from lqcompile.files import check_writable, write_atomically
    from lqcompile.reporting.saved import read_bench, read_profile, read_verification

    _check_installed()
    path = output or source.with_suffix(".html")
    check_writable(path)
    verification = read_verification(verified) if verified else None
    bench = read_bench(benched) if benched else None
    with progress_bar(f"Reporting on {source.name}") as move, board(rpc, tracker, key, timeout, move) as device:
        if is_artifact(source):
            _check_model(model, alternatives=alternatives, samples=samples, verified=verified)
            request = Request(
                artifact=source,
                model=model if alternatives else None,
                inputs=inputs,
                seed=seed,
                threads=threads,
                limit_s=limit,
                emulated=emulated,
                batch=batch,
            )
            profile = profile_artifact(request, device, move)
            if model is not None:
                check = Check(model=model, artifact=source, samples=samples, random=random, seed=seed, threads=threads)
                verification = _verify(check, device, move)
        else:
            _check_saved(source, model=model, device=device, alternatives=alternatives)
            profile = read_profile(source)
        from lqcompile.reporting.page import render

        move("drawing", 0.95)
        page = render(
            profile, made=datetime.datetime.now(datetime.UTC), verification=verification, bench=bench
        ).encode()
    write_atomically(path, page)
    if json_output:
        print_json({"report": str(path), "bytes": len(page), "profile": profile, "verification": verification})
    else:
        print_text(f"Wrote {path}, {len(page) / 1e3:.0f} kB; it needs no network and prints well.")


@dataclass(frozen=True, kw_only=True)
class Check:
    """What to verify for a report, as the options say it."""

    model: Path
    artifact: Path
    samples: Path | None
    random: int
    seed: int
    threads: int


def _verify(check: Check, device: Device | None, move: ProgressCallback) -> dict[str, Any]:
    """The report of ``verify``; one that fails is part of the page, not an error."""
    from lqcompile.verify import verify

    with compiled_model(check.model, check.artifact, "", check.threads, move, device) as compiled:
        arrays, labels = samples_for(compiled.inputs[0], check.samples, check.random, check.seed)
        return verify(check.model, compiled, arrays, labels, progress=move).to_json()


def _check_installed() -> None:
    from lqcompile.errors import LQCompileError

    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise LQCompileError(
            f"report: found no {' and no '.join(missing)}, expected the report extra; pip install 'lqcompile[report]'"
        )


def _check_model(model: Path | None, *, alternatives: bool, samples: Path | None, verified: Path | None) -> None:
    """Refuse options that want an ONNX file where none is given, or that say the same twice."""
    from lqcompile.errors import InputError

    wanting = [name for name, given in (("--alternatives", alternatives), ("--samples", samples)) if given]
    if model is None and wanting:
        raise InputError(f"report: found {' and '.join(wanting)} without --model, expected the ONNX file with it")
    if model is not None and verified is not None:
        raise InputError("report: found --model and --verified, expected one of them; both tell of equality")


def _check_saved(source: Path, *, model: Path | None, device: Device | None, alternatives: bool) -> None:
    """Refuse to measure where only a saved profile is given."""
    from lqcompile.errors import InputError

    wanting = {"--model": model, "a board": device, "--alternatives": alternatives or None}
    given = [name for name, value in wanting.items() if value is not None]
    if given:
        raise InputError(
            f"report '{source}': found {' and '.join(given)} with what is no artifact, expected an artifact to measure "
            "anew; a saved profile goes with --verified and --benched"
        )
