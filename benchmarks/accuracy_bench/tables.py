"""The recorded runs as Markdown: accuracies, differences, and what they say of the claims."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from statistics import fmean, stdev

from accuracy_bench.matrix import FIRST, FLOAT, FORMS, LARGER, METHODS, RATES, SETTINGS
from accuracy_bench.records import Record, chosen_rate
from accuracy_bench.statistics import Interval, interval, pooled_intervals

TITLES = {"lq": "LQ", "lsq": "LSQ", "dorefa-pact": "DoReFa/PACT", FLOAT: "float"}

NEAR_FLOAT = {"W3A3": 0.3, "W2A2": 0.8}
"""Claims: the learned codes lose at most so many points to float."""

ABLATION_COST = 0.1
"""Claim: integer bases, and 8-bit first and last layers, cost less than so many points."""

ABLATIONS: dict[str, Callable[[Record], float | None]] = {
    "integer bases": lambda record: record.integer_bases,
    "8-bit first and last layer": lambda record: record.edges8,
    "both": lambda record: record.integer_all,
}


def markdown(records: Sequence[Record]) -> str:
    """All tables, network by network; those of accuracies hold the runs with the chosen rates."""
    kinds = {(record.network, record.setting, record.method) for record in records}
    rates = {kind: chosen_rate(records, *kind) for kind in kinds}
    chosen = [record for record in records if record.lr == rates[record.network, record.setting, record.method]]
    parts = []
    for network in FORMS:
        parts += [f"Both rates, seed 0 of {network}:", "", *_rates(records, network), ""]
    for network, form in FORMS.items():
        runs = [row for row in chosen if (row.network, row.case.form) == (network, form)]
        tried = [record for record in records if record.network == network]
        parts.append(_network(network, runs, tried))
    parts += [f"### {FIRST}, wider, or trained for longer", "", *_larger(chosen), ""]
    return "\n".join(parts)


def _rates(records: Sequence[Record], network: str) -> Iterator[str]:
    columns = [f"{TITLES[method]} {lr:g}" for method in METHODS for lr in RATES]
    yield f"| setting | {' | '.join(columns)} |"
    yield f"|---|{'---|' * len(columns)}"
    runs = [row for row in records if (row.network, row.case.form, row.seed) == (network, FORMS[network], 0)]
    for setting in _settings(runs):
        methods = [FLOAT] if setting == FLOAT else METHODS
        cells = []
        for method, lr in product(methods, RATES):
            values = _values([record for record in runs if record.lr == lr], setting, method)
            cells.append(f"{values[0]:.2f}" if values else "-")
        yield f"| {setting} | {' | '.join(cells)} |{' |' * (len(columns) - len(cells))}"


def _network(network: str, records: Sequence[Record], tried: Sequence[Record]) -> str:
    if not records:
        return f"### {network}\n\nNo runs.\n"
    form = records[0]
    origin = f"{len(records)} runs of {form.epochs} epoch(s) from float twins of {form.twin_epochs} epochs"
    lines = [
        f"### {network}, {form.width:g} times the width, images of {form.image_size}x{form.image_size}",
        "",
        f"{origin}.",
        "Test accuracy in percent: mean ± standard deviation over seeds (number of seeds).",
        "",
        *_accuracies(records),
        "",
        "After calibration alone:",
        "",
        *_calibrated(records),
        "",
        "Differences in points, paired by seed, with 95 % confidence intervals:",
        "",
        *_differences(records),
        "",
        "What the finished LQ networks lose, in points, over all settings, seeds, rates and forms, when nothing is",
        "trained after the change:",
        "",
        *_ablations(tried),
        "",
        "Claims:",
        "",
        *_claims(records, tried),
        "",
    ]
    return "\n".join(lines)


def _accuracies(records: Sequence[Record]) -> Iterator[str]:
    yield f"| setting | {' | '.join(TITLES[method] for method in METHODS)} |"
    yield f"|---|{'---|' * len(METHODS)}"
    for setting in _settings(records):
        if setting == FLOAT:
            yield f"| float | {_spread(_values(records, FLOAT, FLOAT))} |{' |' * (len(METHODS) - 1)}"
        else:
            cells = [_spread(_values(records, setting, method)) for method in METHODS]
            yield f"| {setting} | {' | '.join(cells)} |"


def _calibrated(records: Sequence[Record]) -> Iterator[str]:
    yield f"| setting | {' | '.join(TITLES[method] for method in METHODS)} |"
    yield f"|---|{'---|' * len(METHODS)}"
    for setting in _settings(records):
        if setting != FLOAT:
            cells = [_spread(_values(records, setting, method, lambda row: row.calibrated)) for method in METHODS]
            yield f"| {setting} | {' | '.join(cells)} |"


def _differences(records: Sequence[Record]) -> Iterator[str]:
    others = [method for method in (*METHODS, FLOAT) if method != "lq"]
    columns = {other: pooled_intervals(paired(records, other)) for other in others}
    yield f"| setting | {' | '.join(f'LQ - {TITLES[other]}' for other in others)} |"
    yield f"|---|{'---|' * len(others)}"
    for setting in _settings(records):
        if setting != FLOAT:
            yield f"| {setting} | {' | '.join(_interval(columns[other].get(setting)) for other in others)} |"
    overall = [_mean([fmean(values) for values in paired(records, other).values()]) for other in others]
    yield f"| mean over settings | {' | '.join(_interval(found, 'settings') for found in overall)} |"


def _ablations(records: Sequence[Record]) -> Iterator[str]:
    yield "| | loss |"
    yield "|---|---|"
    for name, value in ABLATIONS.items():
        yield f"| {name} | {_interval(_mean(losses(records, value)), 'runs')} |"


def _claims(records: Sequence[Record], tried: Sequence[Record]) -> Iterator[str]:
    yield "| claim | |"
    yield "|---|---|"
    for other in (method for method in METHODS if method != "lq"):
        found = pooled_intervals(paired(records, other))
        for setting in (setting for setting in SETTINGS if setting in found):
            yield f"| {setting}: LQ at least as good as {TITLES[other]} | {found[setting].at_least(0.0)} |"
    to_float = pooled_intervals(paired(records, FLOAT))
    for setting, most in NEAR_FLOAT.items():
        if setting in to_float:
            yield f"| {setting}: LQ within {most} points of float | {to_float[setting].at_least(-most)} |"
    for name, value in ABLATIONS.items():
        loss = _mean(losses(tried, value))
        if loss is not None:
            yield f"| {name}: less than {ABLATION_COST} points | {loss.at_most(ABLATION_COST)} |"


def _larger(records: Sequence[Record]) -> Iterator[str]:
    """The forms of the first network side by side, each with the seeds that it has."""
    yield f"| width | epochs | float |{''.join(f' {setting} | {setting} - float |' for setting in NEAR_FLOAT)}"
    yield f"|---|---|---|{'---|---|' * len(NEAR_FLOAT)}"
    claims = []
    for form in (FORMS[FIRST], *LARGER):
        runs = [row for row in records if (row.network, row.case.form) == (FIRST, form)]
        to_float = pooled_intervals(paired(runs, FLOAT))
        cells = [f"{form.width:g}", str(form.epochs), _spread(_values(runs, FLOAT, FLOAT))]
        for setting, most in NEAR_FLOAT.items():
            cells += [_spread(_values(runs, setting, "lq")), _interval(to_float.get(setting))]
            if setting in to_float:
                verdict = to_float[setting].at_least(-most)
                claims.append(
                    f"| {setting} within {most} points of float | {form.width:g} | {form.epochs} | {verdict} |"
                )
        yield f"| {' | '.join(cells)} |"
    yield from ("", "| claim | width | epochs | |", "|---|---|---|---|", *claims)


def paired(records: Sequence[Record], other: str) -> dict[str, list[float]]:
    """Accuracy of LQ less that of another method, or of float, by setting: a value for each seed that has both."""
    found: dict[str, list[float]] = {}
    for record in records:
        if record.method == "lq":
            setting = FLOAT if other == FLOAT else record.setting
            for partner in records:
                if (partner.setting, partner.method, partner.seed) == (setting, other, record.seed):
                    found.setdefault(record.setting, []).append(record.top1 - partner.top1)
    return found


def losses(records: Sequence[Record], value: Callable[[Record], float | None]) -> list[float]:
    """What every LQ run loses by an ablation."""
    pairs = [(record.top1, value(record)) for record in records if record.method == "lq"]
    return [top1 - changed for top1, changed in pairs if changed is not None]


def _settings(records: Sequence[Record]) -> list[str]:
    present = {record.setting for record in records}
    return [setting for setting in SETTINGS if setting in present]


def _values(
    records: Sequence[Record],
    setting: str,
    method: str,
    value: Callable[[Record], float | None] = lambda record: record.top1,
) -> list[float]:
    found = [value(record) for record in records if (record.setting, record.method) == (setting, method)]
    return [number for number in found if number is not None]


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{fmean(values):.2f}{spread} ({len(values)})"


def _mean(values: Sequence[float]) -> Interval | None:
    return interval(values) if values else None


def _interval(found: Interval | None, of: str = "") -> str:
    if found is None:
        return "-"
    half = "?" if found.half is None else f"{found.half:.2f}"
    return f"{found.mean:+.2f} ± {half} ({found.count}{' ' + of if of else ''})"
