"""The page: one HTML file that needs nothing beside it, on phones, in print, by day and by night."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from lqcompile.reporting import roofline, summary, view, words

_COLOURS = {name: f"var(--{name})" for name in (*view.FAMILIES, view.OTHER, "ink", "faint")}


def render(
    profile: Mapping[str, Any],
    *,
    made: datetime,
    verification: Mapping[str, Any] | None = None,
    bench: Mapping[str, Any] | None = None,
) -> str:
    """The report as HTML.

    Args:
        profile: of `lqcompile.profiling.profile.make_profile`, or a saved one.
        made: when the report is made, for its foot.
        verification: what ``verify --json`` prints, or None.
        bench: what ``bench --json`` prints, or None.
    """
    return _template().render(
        style=Markup(_resource("report.css")),  # noqa: S704 - our own file
        artifact=profile["artifact"],
        title=profile["artifact"]["onnx"]["name"].removesuffix(".onnx"),
        emulator=profile["machine"]["emulator"],
        cpu=profile["machine"]["cpu"],
        place=profile["machine"]["name"],
        workers=words.workers(profile),
        on_gpu=words.on_gpu(profile),
        settled=profile["settled"],
        uncertainty=words.percent(profile["whole"]["uncertainty"]),
        bits=view.bits_in_words(profile),
        figures=summary.figures(profile, verification, bench),
        strips=view.strips(profile),
        legend=view.legend(profile),
        layers=view.layers(profile),
        sums=view.sums(profile),
        plots=_plots(profile),
        bounded=profile["totals"]["fraction_of_bound"] is not None,
        choices=view.choices(profile),
        without_choice=view.without_choice(profile),
        sizes=summary.sizes(profile),
        memory=summary.memory(profile),
        machine=summary.machine(profile),
        verification=verification,
        equality=summary.equality(verification) if verification else [],
        bench=bench,
        peers=summary.peers(bench) if bench else [],
        made=made.strftime("%Y-%m-%d %H:%M UTC"),
    )


@functools.cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_resource("report.html.jinja"))


def _plots(profile: Mapping[str, Any]) -> list[Markup]:
    """The roofline in each of its sizes; none where no layer took any time."""
    if not roofline.dots(profile):
        return []
    title = "Roofline: multiply-accumulates per second of each layer over those per byte, below the machine's limits"
    return [Markup(roofline.draw(profile, size, _COLOURS, title)) for size in roofline.SIZES]  # noqa: S704 - made here


def _resource(name: str) -> str:
    return (importlib.resources.files(__package__) / name).read_text(encoding="utf-8")
