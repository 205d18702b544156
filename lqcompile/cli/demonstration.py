"""``lqcompile demo``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lqcompile.cli.building import DEFAULT_TARGET, TargetOption
from lqcompile.cli.console import (
    JsonOption,
    in_kilobytes,
    in_percent,
    print_json,
    print_table,
    print_text,
    progress_bar,
)
from lqcompile.cli.verification import failure

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lqcompile.inputs import Arrays
    from lqcompile.peers import Peer

EXAMPLE = "Example: lqcompile demo"

_PEER_TITLES = {"onnxruntime-fp32": "ONNX Runtime, float twin", "onnxruntime-int8": "ONNX Runtime, twin in int8"}

MODEL, FLOAT_MODEL, IMAGES = "fashion_mnist_w2a2.onnx", "fashion_mnist_float.onnx", "fashion_mnist_test.npz"


def demo(
    *,
    target: TargetOption = DEFAULT_TARGET,
    threads: Annotated[int, typer.Option(min=1, help="Threads of every side.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of timing; the median counts.")] = 50,
    json_output: JsonOption = False,
) -> None:
    """Build, verify and time the model that ships with lqcompile, on 1,000 real images."""
    from lqcompile import bench as timing
    from lqcompile.build import build
    from lqcompile.errors import InputError, VerificationError
    from lqcompile.inputs import load_samples
    from lqcompile.peers import FP32, INT8
    from lqcompile.runtime import load
    from lqcompile.verify import verify

    data = data_folder()
    with progress_bar("Demo") as move, tempfile.TemporaryDirectory(prefix="lqcompile-") as folder:
        path = Path(folder) / "fashion_mnist.tar"
        built = build(data / MODEL, target=target, output=path, progress=move).to_json()
        compiled = load(path, threads=threads)
        samples, labels = load_samples(data / IMAGES, compiled.inputs[0])
        if labels is None:
            raise InputError(
                f"demo images '{data / IMAGES}': found no 'labels', expected them; install lqcompile again"
            )
        verified = verify(data / MODEL, compiled, samples, labels, progress=move).to_json()
        peers = timing.open_peers(
            (FP32, INT8),
            model=data / MODEL,
            float_model=data / FLOAT_MODEL,
            folder=Path(folder),
            calibration=samples,
            threads=threads,
        )
        one = {name: array[:1] for name, array in samples.items()}
        timed = timing.bench(compiled, peers, one, threads=threads, repeats=repeats, progress=move).to_json()
        others = {
            peer.name: {"accuracy": _accuracy(peer, samples, labels), "bytes": peer.model_bytes} for peer in peers
        }
    report = {"build": built, "verify": verified, "bench": timed, "peers": others}
    if json_output:
        print_json(report)
    else:
        show_demo(report)
    if not verified["passed"]:
        raise VerificationError(f"model '{MODEL}': {failure(verified)}")


def data_folder() -> Path:
    """Where the model and the images of the demo are."""
    return Path(__file__).parents[1] / "data"


def show_demo(report: dict[str, Any]) -> None:
    """Print one table: accuracy, equality, speed and size, next to what a user would run instead."""
    built, verified, timed = report["build"], report["verify"], report["bench"]
    names = list(report["peers"])
    peers, times = report["peers"], timed["against"]
    forced = verified["forced"]
    rows = [
        (
            "right answers",
            in_percent(verified["accuracy"]["compiled"]),
            *(in_percent(peers[n]["accuracy"]) for n in names),
        ),
        ("time for one image", f"{timed['median_ms']:.3f} ms", *(f"{times[n]['median_ms']:.3f} ms" for n in names)),
        ("times as long as lqcompile", "1.0", *(f"{times[n]['ratio']:.1f}" for n in names)),
        ("model file", in_kilobytes(built["bytes"]["onnx"]), *(in_kilobytes(peers[n]["bytes"]) for n in names)),
        ("equal to its ONNX file", "yes" if verified["passed"] else "NO", *("-" for _ in names)),
    ]
    print_table(
        f"Fashion-MNIST, {verified['free']['samples']:,} test images, threads: {timed['threads']}, {timed['cpu']}",
        ("", "lqcompile (2-bit)", *(_PEER_TITLES.get(name, name) for name in names)),
        rows,
    )
    print_text(
        f"Equality: {forced['codes']:,} codes of {forced['layers']} layers compared with ONNX Runtime, "
        f"{forced['mismatches']:,} differ. "
        f"ONNX Runtime on the 2-bit file itself: {in_percent(verified['accuracy']['reference'])} right, the same class "
        f"as lqcompile for {in_percent(verified['free']['top1_agreement'])} of the images. "
        f"Built in {built['seconds']:.1f} s for {built['target']} into {in_kilobytes(built['bytes']['artifact'])}. "
        f"Times are medians of {timed['repeats']} interleaved rounds."
    )


def _accuracy(peer: Peer, samples: Arrays, labels: npt.NDArray[np.int64]) -> float:
    """Part of the samples that a peer classifies as labelled, in calls of 100 samples."""
    right = 0
    for start in range(0, len(labels), 100):
        part = {name: array[start : start + 100] for name, array in samples.items()}
        right += int((peer.run(part)[0].argmax(axis=-1) == labels[start : start + 100]).sum())
    return right / len(labels)
