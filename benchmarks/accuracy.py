"""Accuracy of learned codes beside uniform quantizers, on Fashion-MNIST: train, record, tabulate.

    python benchmarks/accuracy.py                               all runs that docs/accuracy/results.csv has no row of
    python benchmarks/accuracy.py --network vgg_small           those of one network
    python benchmarks/accuracy.py --list                        what is left, in order
    python benchmarks/accuracy.py --sweep                       learning rates of every method, at W2A2 or --setting
    python benchmarks/accuracy.py --write docs/accuracy.md      the tables of that page, from the recorded runs

A run takes about a minute on one core, and may be killed at any time: rows are added when a run is done, the float
twins that runs start from are kept in build/accuracy and go on from their last epoch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from accuracy_bench.matrix import FORMS, METHODS, SETTINGS, Case, matrix
from accuracy_bench.records import append_record, read_records, remaining

ROOT = Path(__file__).parents[1]

SWEPT = (0.003, 0.01, 0.03, 0.1)
"""Learning rates that every method is tried with."""

SWEEP_IMAGES = 20_000
"""Training images of a sweep."""

SWEEP_SEED = 1000
"""Its seed, which no recorded run has."""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=FORMS, action="append", help="may be repeated (default: all)")
    parser.add_argument("--method", choices=("float", *METHODS), action="append", help="of a sweep (default: all)")
    parser.add_argument("--setting", choices=SETTINGS, default="W2A2", help="of a sweep")
    parser.add_argument("--seeds", type=int, default=3, help="runs of every case")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "accuracy" / "results.csv")
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "accuracy", help="where float twins are kept")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="print the runs that are left, and train nothing")
    parser.add_argument("--sweep", action="store_true", help="try learning rates, and record nothing")
    parser.add_argument("--write", type=Path, help="Markdown file to put the tables in; trains nothing")
    return parser.parse_args(argv)


def show(case: Case) -> str:
    """One case in words."""
    return f"{case.network} {case.setting} {case.method} seed {case.seed}"


def run_all(arguments: argparse.Namespace, cases: list[Case]) -> None:
    """Train what is left, a row for each."""
    import torch
    from accuracy_bench.run import load, run_case

    torch.set_num_threads(arguments.threads)
    data = {size: load(arguments.data, size) for size in {FORMS[case.network].image_size for case in cases}}
    for case in cases:
        record = run_case(case, data[FORMS[case.network].image_size], arguments.cache)
        append_record(arguments.results, record)
        print(f"{show(case)}: {record.top1:.2f} % (calibrated {record.calibrated}), {record.seconds:.0f} s", flush=True)


def sweep(arguments: argparse.Namespace) -> None:
    """Every method at one setting with every rate, on part of the images, from one twin."""
    from dataclasses import replace

    import torch
    from accuracy_bench.run import load, run_case

    from lqcompile.training import Data

    torch.set_num_threads(arguments.threads)
    network = (arguments.network or list(FORMS))[0]
    data = load(arguments.data, FORMS[network].image_size)
    part = replace(data.train, images=data.train.images[:SWEEP_IMAGES], labels=data.train.labels[:SWEEP_IMAGES])
    for method in arguments.method or ("float", *METHODS):
        case = Case(
            network=network, setting="float" if method == "float" else arguments.setting, method=method, seed=SWEEP_SEED
        )
        found = {lr: run_case(case, Data(train=part, test=data.test), arguments.cache, lr=lr).top1 for lr in SWEPT}
        rates = " ".join(f"lr {lr}: {top1:.2f} %" for lr, top1 in found.items())
        print(network, case.setting, method, rates, flush=True)


def main(argv: list[str] | None = None) -> None:
    """Train, list, or write the tables."""
    arguments = parse(argv)
    records = read_records(arguments.results)
    if arguments.write:
        from accuracy_bench.page import write_section
        from accuracy_bench.tables import markdown

        write_section(arguments.write, "accuracy", markdown(records))
        return
    if arguments.sweep:
        sweep(arguments)
        return
    left = remaining(matrix(arguments.network or list(FORMS), arguments.seeds), records)
    if arguments.list:
        print("\n".join(show(case) for case in left))
        return
    run_all(arguments, left)


if __name__ == "__main__":
    main()
