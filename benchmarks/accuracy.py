"""Accuracy of learned codes beside uniform quantizers, on Fashion-MNIST: train, record, tabulate.

    python benchmarks/accuracy.py                               all runs that docs/accuracy/results.csv has no row of
    python benchmarks/accuracy.py --network vgg_small           those of one network
    python benchmarks/accuracy.py --list                        what is left, in order
    python benchmarks/accuracy.py --write docs/accuracy.md      the tables of that page, from the recorded runs

A run takes a minute or two per epoch on one core, and may be killed at any time: rows are added when a run is done,
the float twins that runs start from are kept in build/accuracy and go on from their last epoch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from accuracy_bench.matrix import FORMS, Case, matrix
from accuracy_bench.records import append_record, chosen_rate, read_records, remaining

ROOT = Path(__file__).parents[1]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=FORMS, action="append", help="may be repeated (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of every case")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "accuracy" / "results.csv")
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "accuracy", help="where float twins are kept")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="print the runs that are known to be left; trains nothing")
    parser.add_argument("--write", type=Path, help="Markdown file to put the tables in; trains nothing")
    return parser.parse_args(argv)


def show(case: Case) -> str:
    """One case in words."""
    form = f"width {case.form.width:g} epochs {case.form.epochs}"
    return f"{case.network} {form} {case.setting} {case.method} seed {case.seed} rate {case.lr}"


def left(arguments: argparse.Namespace) -> list[Case]:
    """Runs that have no row yet."""
    records = read_records(arguments.results)

    def chosen(network: str, setting: str, method: str) -> float | None:
        return chosen_rate(records, network, setting, method)

    return remaining(matrix(arguments.network or list(FORMS), arguments.seeds, chosen), records)


def run_all(arguments: argparse.Namespace) -> None:
    """Train what is left, a row for each."""
    import torch
    from accuracy_bench.run import load, run_case

    torch.set_num_threads(arguments.threads)
    data = {size: load(arguments.data, size) for size in {form.image_size for form in FORMS.values()}}
    while cases := left(arguments):
        record = run_case(cases[0], data[cases[0].form.image_size], arguments.cache)
        append_record(arguments.results, record)
        print(f"{show(cases[0])}: {record.top1:.2f} % in {record.seconds:.0f} s", flush=True)


def main(argv: list[str] | None = None) -> None:
    """Train, list, or write the tables."""
    arguments = parse(argv)
    if arguments.write:
        from accuracy_bench.page import write_section
        from accuracy_bench.tables import markdown

        write_section(arguments.write, "accuracy", markdown(read_records(arguments.results)))
    elif arguments.list:
        print("\n".join(show(case) for case in left(arguments)))
    else:
        run_all(arguments)


if __name__ == "__main__":
    main()
