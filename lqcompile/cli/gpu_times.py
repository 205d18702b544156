"""``lqcompile bench`` on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from lqcompile.cli.board_times import Work, check_source
from lqcompile.cli.console import ProgressCallback, in_percent, print_table, print_text
from lqcompile.cli.opening import compiled_model
from lqcompile.wording import counted

if TYPE_CHECKING:
    from lqcompile.cuda.model import CudaModel


def is_for_gpu(work: Work) -> bool:
    """Whether what is to be timed runs on a GPU.

    Raises:
        ArtifactError: the artifact is damaged.
        TargetError: there is no such target.
    """
    from lqcompile.artifact import is_artifact, read_artifact
    from lqcompile.target import GPU, find

    path = work.model if work.artifact is None and is_artifact(work.model) else work.artifact
    machine = find(work.target).machine if path is None else read_artifact(path).manifest["machine"]
    return bool(machine == GPU)


def bench_gpu(work: Work, batches: Sequence[int] | None, move: ProgressCallback) -> dict[str, Any]:
    """Time an artifact on the GPU, beside its peers; the reports of all batches under the key ``batches``.

    Args:
        work: what was asked for; its batch is not used.
        batches: samples of a run, one report each; None for the usual ones.
        move: moves the progress bar.

    Raises:
        LQCompileError: there is no GPU, or a file does not serve; the message says what to do.
    """
    from lqcompile.gpu_bench import bench

    batches = bench.BATCHES if batches is None else batches
    names = bench.check_request(work.against, batches, work.threads)
    check_source(work, names)
    samples = None
    with compiled_model(work.model, work.artifact, work.target, None, move) as opened:
        compiled = cast("CudaModel", opened)
        if work.samples is not None:
            from lqcompile.inputs import load_samples

            samples, _ = load_samples(work.samples, compiled.inputs[0])
        twin = bench.float_twin(work.float_model, work.model) if names else None
        reports = [
            bench.bench_gpu(
                compiled,
                twin,
                names,
                samples,
                batch=batch,
                repeats=work.repeats,
                seed=work.seed,
                progress=move,
            ).to_json()
            for batch in batches
        ]
    return {"gpu": reports[0]["gpu"], "variant": reports[0]["variant"], "batches": reports}


def show_gpu(report: dict[str, Any]) -> None:
    """Print times and ratios, one table for each batch, what exactly ran, and what is not there."""
    what: dict[str, str] = {}
    absent: dict[str, list[str]] = {}
    for entry in report["batches"]:
        rows = [_row("lqcompile", entry, "1.00")]
        rows += [_row(name, peer, f"{peer['ratio']:.2f}") for name, peer in entry["against"].items()]
        rows.append(_row("lqcompile, with copies", entry["with_copies"], ""))
        rows += [(name, "not there", "", "", "") for name in entry["absent"]]
        print_table(
            f"Time of a run of {counted(entry['batch'], 'sample')}, {report['gpu']}",
            ("", "median ms", "90 % within ms", "median within", "times as long"),
            rows,
        )
        what |= {name: peer["what"] for name, peer in entry["against"].items()}
        for name, reason in entry["absent"].items():
            absent.setdefault(f"{name}: {reason}", []).append(str(entry["batch"]))
    for name, words in what.items():
        print_text(f"{name}: {words}")
    for line, where in absent.items():
        everywhere = len(where) == len(report["batches"])
        print_text(f"Not there: {line}" + ("" if everywhere else f" (batch {', '.join(where)})"))
    rounds = counted(report["batches"][0]["repeats"], "interleaved round")
    print_text(
        f"Medians of {rounds} (95 % intervals), inputs and outputs on the GPU but for 'with copies'; code for "
        f"{report['variant']}."
    )


def _row(name: str, times: dict[str, Any], ratio: str) -> tuple[str, ...]:
    interval = f"± {in_percent(times['uncertainty'])}"
    return (name, f"{times['median_ms']:.3f}", f"{times['p90_ms']:.3f}", interval, ratio)
