"""``lqcompile train``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lqcompile.cli.console import (
    JsonOption,
    in_kilobytes,
    in_percent,
    print_json,
    print_table,
    print_text,
    progress_bar,
)
from lqcompile.errors import LQCompileError, TrainingError

if TYPE_CHECKING:
    from lqcompile.training import Epoch, Recipe, Step
    from lqcompile.training.run import Report

EXAMPLE = "Example: lqcompile train fashion-mnist-float --data /usr/share/datasets/fashion-mnist -o runs/float"

_SET_HELP = "Change one key of the recipe, such as optimizer.lr=0.01; may be repeated."
_START_HELP = "Float twin to start from, and to distil from: the folder of its run, or a file of weights."


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="Recipe file (TOML), or the name of a shipped one.", show_default=False)
    ] = None,
    *,
    data: Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Folder with the data set.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder of the run.")] = None,
    start: Annotated[Path | None, typer.Option("--start", metavar="RUN", help=_START_HELP)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=_SET_HELP)] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:1; by default CUDA if there is a device.", show_default=False)
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads (default: torch's choice).")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write a log for TensorBoard as well.")] = False,
    list_recipes: Annotated[bool, typer.Option("--list", help="List the shipped recipes and exit.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Train a network by a recipe and export it; needs the extra 'train' (PyTorch)."""
    with _extra():
        from lqcompile.training import load_recipe, ranks, run
        from lqcompile.training.fit import CHECKPOINT

    if list_recipes:
        _list(json_output=json_output)
        return
    if recipe is None or data is None or output is None:
        missing = next(
            name for name, value in (("RECIPE", recipe), ("--data", data), ("--output", output)) if not value
        )
        raise TrainingError(f"train: found no {missing}, expected one; {EXAMPLE}")
    plan = load_recipe(recipe, overrides or ())
    try:
        with progress_bar("Training", line_s=60.0) as move:

            def told(step: Step) -> None:
                done = (step.epoch - 1 + step.step / step.steps) / plan.epochs
                move(f"epoch {step.epoch}/{plan.epochs}, loss {step.loss:.4f}", done)

            report = run.train(
                plan,
                data=data,
                output=output,
                start=start,
                resume=resume,
                device=device,
                threads=threads,
                tensorboard=tensorboard,
                on_step=told,
                on_epoch=lambda epoch: _show(epoch, plan),
            )
    except KeyboardInterrupt:
        if (output / CHECKPOINT).exists():
            sys.stderr.write(
                f"Stopped; to go on from the last whole epoch, repeat the command with --resume ({output}).\n"
            )
        raise
    if ranks.is_first():
        _finish(output, report, json_output=json_output)


def _list(*, json_output: bool) -> None:
    from lqcompile.training.recipes import load_recipe, names

    entries = [{"name": name, "description": load_recipe(name).description} for name in names()]
    if json_output:
        print_json({"recipes": entries})
    else:
        rows = [(entry["name"], entry["description"]) for entry in entries]
        print_table("Recipes (--set changes single keys)", ("recipe", "trains"), rows)


def _show(epoch: Epoch, recipe: Recipe) -> None:
    """One line for each epoch, on standard error; of several processes only the first speaks."""
    from lqcompile.training.ranks import is_first

    if is_first():
        bases = f" ({epoch.bases} bases)" if recipe.snap is not None else ""
        sys.stderr.write(
            f"epoch {epoch.epoch}/{recipe.epochs}{bases}: loss {epoch.loss:.4f}, "
            f"test {in_percent(epoch.top1)}, lr {epoch.lr:.2g}, {epoch.seconds:.0f} s\n"
        )


def _finish(output: Path, report: Report, *, json_output: bool) -> None:
    content: dict[str, Any] = {"run": str(output), **vars(report)}
    if json_output:
        print_json(content)
        return
    rows = [
        ("test accuracy", f"{in_percent(report.top1)} of {report.test_count:,} images"),
        *([("among the best five", in_percent(report.top5))] if report.top5 < 1 else []),
        (f"best epoch ({report.best_epoch})", f"{in_percent(report.best_top1)}, chosen by the same images"),
        ("time", f"{report.seconds:.0f} s"),
        *((name, in_kilobytes(size)) for name, size in report.files.items()),
    ]
    print_table(str(output), ("", ""), rows)
    print_text(f"Go on with: lqcompile build {output / 'final.onnx'} -o model.tar")


@contextmanager
def _extra() -> Iterator[None]:
    """Say what to install where a package of the extra is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise LQCompileError(
            f"lqcompile train: found no {error.name}, expected the training extra; pip install 'lqcompile[train]'"
        ) from error
