"""Quantization error on trained weights and activations: best uniform grid, QEM, and the least there is.

    python benchmarks/quantization_error.py --network vgg_small --write docs/accuracy.md

The values are those of the float twin of benchmarks/accuracy.py; the plots show the levels that its networks at W2A2
and W3A3 have learned. Networks that are not in build/accuracy yet are trained first.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from accuracy_bench.errors import Errors, layer_values, measure
from accuracy_bench.levels import plot_levels
from accuracy_bench.matrix import FORMS, RATES, Case
from accuracy_bench.page import write_section
from accuracy_bench.run import calibration_images, finished, float_twin, load

ROOT = Path(__file__).parents[1]

PLOTTED = ("W2A2", "W3A3")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=FORMS, default="vgg_small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bits", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "accuracy", help="where networks are kept")
    parser.add_argument("--figures", type=Path, default=ROOT / "docs" / "accuracy", help="folder of the plots")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path, help="Markdown file to put the table in")
    return parser.parse_args()


def markdown(found: Sequence[Errors]) -> str:
    """A row per layer and kind; cells hold an error for each number of bits."""
    bits = sorted({errors.bits for errors in found})
    columns = ("uniform", "learned", "best_basis", "free")
    titles = ("best uniform", "QEM", "best basis", "free levels")
    lines = [
        f"| layer | values | bits | {' | '.join(titles)} | QEM / uniform |",
        f"|---|---|---|{'---|' * len(titles)}---|",
    ]
    for errors in found:
        cells = " | ".join(f"{getattr(errors, column):.2f}" for column in columns)
        ratio = errors.learned / errors.uniform
        lines.append(f"| {errors.layer} | {errors.kind} | {errors.bits} | {cells} | {ratio:.2f} |")
    for kind in dict.fromkeys(errors.kind for errors in found):
        for count in bits:
            chosen = [errors for errors in found if (errors.kind, errors.bits) == (kind, count)]
            means = [sum(getattr(errors, column) for errors in chosen) / len(chosen) for column in columns]
            cells = " | ".join(f"**{mean:.2f}**" for mean in means)
            lines.append(f"| **mean** | {kind} | {count} | {cells} | **{means[1] / means[0]:.2f}** |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and plot."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    form = FORMS[arguments.network]
    data = load(arguments.data, form.image_size)
    twin = float_twin(arguments.network, form, data, arguments.seed, arguments.cache)
    images = calibration_images(data)[0]
    found = [
        measure(layer, kind, rows, bits, arguments.seed)
        for layer, both in layer_values(twin, images, arguments.seed).items()
        for kind, rows in zip(("weights", "activations"), both, strict=True)
        for bits in arguments.bits
    ]
    text = markdown(found)
    for setting in PLOTTED:
        case = Case(
            network=arguments.network, form=form, setting=setting, method="lq", seed=arguments.seed, lr=RATES[-1]
        )
        model = finished(case, data, arguments.cache)
        name = f"levels-{arguments.network}-{setting}.svg"
        title = f"{arguments.network} {setting}, seed {arguments.seed}"
        plot_levels(model, layer_values(model, images, arguments.seed), title, arguments.figures / name)
        text += f"\n![Learned levels of {title}](accuracy/{name})\n"
    print(text)
    if arguments.write:
        write_section(arguments.write, f"quantization-error {arguments.network}", text)


if __name__ == "__main__":
    main()
