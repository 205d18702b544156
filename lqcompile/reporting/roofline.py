"""The roofline of a profile, as inline SVG: what layers reach, below what the machine could do.

Multiply-accumulates of kernels per second over those per byte, both on logarithmic axes: a kernel on bit planes makes
one for each plane pair. Horizontal lines are peaks of inner loops at the measured clock, sloping ones the measured
bandwidths (S. Williams, A. Waterman, D. Patterson, "Roofline", CACM 2009; one line for each cache as in A. Ilic et al.,
"Cache-aware roofline model", 2014).
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from lqcompile.profiling.bounds import passes_of
from lqcompile.target import find

SIZES = {"wide": (9.6, 4.6, 9.5), "narrow": (4.6, 4.9, 10.5)}
"""Name of a drawing to inches and points: one for wide windows and paper, one for phones."""

_INK, _FAINT = "#010101", "#020202"
_POINTS_PER_INCH = 72
_CLOSE = 2.0
"""A bandwidth within this factor of the one above it has its name below its line."""

_LABEL_GAP = 13.0
"""Points between labels of layers, at least."""


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A layer: where it stands, and how large.

    Args:
        number: of the layer, as everywhere in the report.
        kernel: its family, which gives the colour.
        per_byte: multiply-accumulates per byte of parameters (of its part, where samples share them) and activations.
        per_s: multiply-accumulates per second.
        share: of the time of the network.
    """

    number: int
    kernel: str
    per_byte: float
    per_s: float
    share: float


def dots(profile: Mapping[str, Any]) -> list[Dot]:
    """The layers that compute, where they took any time."""
    found = []
    for number, layer in enumerate(profile["layers"], start=1):
        work, us = layer["work"], layer["time"]["median_us"]
        if work is None:
            continue
        operations = work["macs"] * passes_of(work)
        sizes = layer["bytes"]
        moved = sizes["parameters"] / profile["samples"] + sizes["read"] + sizes["written"]
        if min(us, operations, moved) <= 0:
            continue
        found.append(
            Dot(
                number=number,
                kernel=work["kernel"],
                per_byte=operations / moved,
                per_s=1e6 * operations / us,
                share=layer["share"],
            )
        )
    return found


def ceilings(profile: Mapping[str, Any]) -> dict[tuple[str, float], list[str]]:
    """(Kernel family, multiply-accumulates per second) of the peaks to the inner loops that have them."""
    machine = profile["machine"]
    peaks = find(profile["artifact"]["variant"]).peaks
    used = {(layer["work"]["kernel"], layer["work"]["loop"]) for layer in profile["layers"] if layer["work"]}
    found: dict[tuple[str, float], list[str]] = {}
    for kernel, loop in sorted(used):
        if loop in peaks:
            found.setdefault((kernel, peaks[loop] * machine["clock_hz"] * profile["threads"]), []).append(loop)
    return found


def draw(profile: Mapping[str, Any], size: str, colours: Mapping[str, str], title: str) -> str:
    """The plot as an ``<svg>`` element that takes its colours from CSS.

    Args:
        profile: with at least one of `dots`.
        size: of `SIZES`.
        colours: kernel family to a CSS colour, such as ``var(--lut)``; also ``ink`` and ``faint``.
        title: for those who cannot see it.
    """
    width, height, points = SIZES[size]
    names = sorted({dot.kernel for dot in dots(profile)})
    marks = {name: f"#0000{index + 16:02x}" for index, name in enumerate(names)}
    options: Any = {"svg.fonttype": "none", "svg.hashsalt": size, "font.size": points, "font.family": "sans-serif"}
    with mpl.rc_context(options):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
        _plot(figure, axes, profile, marks)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    css = {marks[name]: colours.get(name, colours["ink"]) for name in names}
    css |= {_INK: colours["ink"], _FAINT: colours["faint"]}
    return _inline(buffer.getvalue(), size, css, title)


def _plot(figure: Figure, axes: Axes, profile: Mapping[str, Any], marks: Mapping[str, str]) -> None:
    found, tops = dots(profile), ceilings(profile)
    speeds = profile["machine"]["bytes_per_s"]
    left, right = min(dot.per_byte for dot in found) / 4, max(dot.per_byte for dot in found) * 4
    bottom = min(dot.per_s for dot in found) / 4
    top = max([*(peak for _, peak in tops), *(dot.per_s for dot in found)]) * 2.5
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(bottom, top))
    axes.set_xlabel("multiply-accumulates per byte", color=_INK)
    axes.set_ylabel("multiply-accumulates per second", color=_INK)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _place: _tick(value)))
    axes.tick_params(which="both", colors=_INK, length=3)
    axes.minorticks_off()
    axes.grid(visible=True, color=_FAINT, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    highest, fastest = max((peak for _, peak in tops), default=top), max(speeds.values())
    for speed in speeds.values():
        axes.plot([left / 10, highest / speed], [left / 10 * speed, highest], color=_INK, linewidth=0.9, alpha=0.45)
    for (kernel, peak), loops in tops.items():
        colour = marks.get(kernel, _INK)
        axes.plot([peak / fastest, right * 10], [peak, peak], color=colour, linewidth=1.4, linestyle=(0, (5, 2)))
        label = f"{kernel} ({', '.join(loops)}) at most {_tick(round(peak, -9))}/s"
        axes.text(right / 1.05, peak * 1.06, label, ha="right", va="bottom", color=colour)
    for dot in found:
        colour = marks[dot.kernel]
        axes.scatter([dot.per_byte], [dot.per_s], s=_area(dot), color=colour, alpha=0.72, lw=0.8, edgecolors=_INK)
    figure.draw_without_rendering()  # from here on it is known what lies where
    _name_slopes(axes, speeds, highest)
    _number(axes, found, _POINTS_PER_INCH / figure.dpi)


def _area(dot: Dot) -> float:
    """Of a mark, in square points: it grows with the share of the time."""
    return 22 + 700 * max(0.0, dot.share)


def _name_slopes(axes: Axes, speeds: Mapping[str, float], highest: float) -> None:
    """The bandwidths along their lines, at the left or lower edge."""
    (left, right), (bottom, _) = axes.get_xlim(), axes.get_ylim()
    faster = math.inf
    for level, speed in speeds.items():
        below = speed * _CLOSE > faster
        faster = speed
        start = max(left * 1.2, bottom * 1.5 / speed)
        (x, y), (further, above) = axes.transData.transform([(start, start * speed), (2 * start, 2 * start * speed)])
        if start * speed * 3 > highest or start > right / 3:
            continue
        axes.annotate(
            f"{level} {speed / 1e9:.0f} GB/s",
            (start, start * speed),
            (0, -3 if below else 3),
            textcoords="offset points",
            va="top" if below else "bottom",
            rotation=math.degrees(math.atan2(above - y, further - x)),
            rotation_mode="anchor",
            color=_INK,
            alpha=0.75,
        )


def _number(axes: Axes, found: Sequence[Dot], scale: float) -> None:
    """Numbers beside the layers, those of most time first, where there is room."""
    taken: list[tuple[float, float]] = []
    for dot in sorted(found, key=lambda dot: -dot.share):
        x, y = axes.transData.transform((dot.per_byte, dot.per_s)) * scale
        if any(math.hypot(x - other, y - above) < _LABEL_GAP for other, above in taken):
            continue
        taken.append((x, y))
        reach = math.sqrt(_area(dot) / math.pi) + 2
        axes.annotate(
            str(dot.number), (dot.per_byte, dot.per_s), (reach, 0), textcoords="offset points", va="center", color=_INK
        )


def _tick(value: float) -> str:
    """A power of ten with its prefix: ``100 G``."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:g} {prefix}"
    return f"{value:g}"


def _inline(svg: str, size: str, css: Mapping[str, str], title: str) -> str:
    """The ``<svg>`` element alone: colours as in the page's style sheet, names that no other drawing has."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'\b(id="|url\(#|href="#)', rf"\1{size}-", body)
    for mark, colour in css.items():
        body = body.replace(mark, colour)
    # The size is the page's business; text takes the page's font.
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", body, count=1)
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body)
    return body.replace("<svg", f'<svg class="plot {size}" role="img" aria-label="{title}"', 1)
