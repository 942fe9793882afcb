"""Plots: the Pareto front as a picture, for a README or a slide."""

from __future__ import annotations

import io
import math
from functools import partial

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from hwfit.report import text
from hwfit.report.dominance import joint_front
from hwfit.report.labels import Box, line_boxes, place_labels
from hwfit.report.results import KINDS, Results, Row
from hwfit.report.text import LOOKS
from hwfit.workload import PhaseName

WRITING = {"decode": "decode latency, ms a token", "prefill": "prefill latency, ms a prompt"}


def pareto_figure(results: Results, phase: PhaseName = "decode") -> Figure:
    """Measured latency against held-out perplexity with both intervals; hollow marks are the predicted latency."""
    figure = Figure(figsize=(9, 6), dpi=160, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_yscale("log")
    limits = _budget_lines(axes, results, phase)
    for row in results.rows:
        _point(axes, row, phase)
    joint = joint_front(results, phase)
    axes.plot(
        [row.timing(phase).measured * 1e3 for row in joint],
        [row.perplexity for row in joint],
        color=LOOKS["joint"].colour,
        linewidth=1,
        zorder=1,
    )
    _decorate(axes, results, phase)
    axes.margins(0.1, 0.14)
    for axis in (axes.xaxis, axes.yaxis):
        ticks = text.log_ticks(*axis.get_view_interval())
        axis.set_major_locator(FixedLocator(list(ticks)))
        axis.set_major_formatter(FixedFormatter(list(ticks.values())))
        axis.set_minor_locator(NullLocator())
    canvas.draw()  # fixes the layout, which the labels need in pixels
    figure.set_layout_engine("none")
    _write_names(axes, results, phase, limits)
    return figure


def pareto_png(results: Results, phase: PhaseName = "decode") -> bytes:
    """`pareto_figure` as a PNG; the same results give the same bytes."""
    out = io.BytesIO()
    pareto_figure(results, phase).savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _budget_lines(axes: Axes, results: Results, phase: PhaseName) -> list[Text]:
    limits = sorted({row.budget[phase] for row in results.rows if row.budget and phase in row.budget})
    for limit in limits:
        axes.axvline(limit * 1e3, color="#bbbbbb", linewidth=0.9, linestyle=(0, (4, 3)), zorder=0.9)
    return [
        axes.text(
            *(limit * 1e3, 0.99, f"≤ {limit * 1e3:g}"),
            transform=axes.get_xaxis_transform(),
            rotation=90,
            ha="right",
            va="top",
            fontsize=8,
            color="#777777",
        )
        for limit in limits
    ]


def _point(axes: Axes, row: Row, phase: PhaseName) -> None:
    look, timing = LOOKS[row.kind], row.timing(phase)
    x, y, size = timing.measured * 1e3, row.perplexity, 13 if look.marker == "*" else 8
    axes.errorbar(
        *(x, y),
        xerr=[[max(0.0, x - timing.low * 1e3)], [max(0.0, timing.high * 1e3 - x)]],
        yerr=[[max(0.0, y - row.perplexity_low)], [max(0.0, row.perplexity_high - y)]],
        fmt=look.marker,
        color=look.colour,
        markersize=size,
        markeredgecolor="white",
        markeredgewidth=0.7,
        elinewidth=1.1,
        capsize=2.5,
        zorder=3,
    )
    if row.picked:
        axes.plot(x, y, "o", markersize=18, markerfacecolor="none", markeredgecolor="black", markeredgewidth=1.2)
    if timing.predicted is not None:
        expected = timing.predicted * 1e3
        axes.plot([x, expected], [y, y], color=look.colour, linewidth=0.8, linestyle=":", zorder=2)
        axes.plot(expected, y, look.marker, markersize=size - 1, markerfacecolor="white", markeredgecolor=look.colour)


def _decorate(axes: Axes, results: Results, phase: PhaseName) -> None:
    where = f"{results.model} on {results.machine['name']}"
    axes.set_title(where, loc="left", fontsize=11)
    axes.set_xlabel(f"measured {WRITING[phase]} (log scale)")
    axes.set_ylabel("perplexity on held-out text (log scale)")
    axes.set_axisbelow(True)
    axes.grid(which="major", color="#eeeeee", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    looks = [LOOKS[kind] for kind in KINDS if results.of_kind(kind)]
    handles = [
        Line2D([], [], linestyle="", marker=look.marker, color=look.colour, markersize=8, label=look.title)
        for look in looks
    ]
    hollow = partial(Line2D, [], [], linestyle="", marker="o", markerfacecolor="white")
    handles.append(hollow(markeredgecolor="#555555", markersize=7, label="hollow: predicted latency"))
    if results.picked:
        handles.append(hollow(markeredgecolor="black", markersize=14, label="ring: picked"))
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.11), ncol=3, frameon=False, fontsize=9)


def _write_names(axes: Axes, results: Results, phase: PhaseName, limits: list[Text]) -> None:
    """Names beside the points, joined to them by a thin line where they had to move away."""
    renderer = axes.figure.canvas.get_renderer()  # pyright: ignore[reportAttributeAccessIssue]
    anchors = [
        tuple(axes.transData.transform((row.timing(phase).measured * 1e3, row.perplexity))) for row in results.rows
    ]
    halo = [Stroke(linewidth=2.5, foreground="white"), Normal()]
    names = [axes.text(0, 0, row.name, fontsize=9, zorder=5, path_effects=halo) for row in results.rows]
    boxes = [name.get_window_extent(renderer) for name in names]
    frame = axes.bbox
    line = {row.name for row in joint_front(results, phase)}
    joint = sorted(anchors[i] for i, row in enumerate(results.rows) if row.name in line)
    obstacles = [_extent(axes, row, phase) for row in results.rows] + line_boxes(joint)
    obstacles += [(b.x0, b.y0, b.x1, b.y1) for b in (limit.get_window_extent(renderer) for limit in limits)]
    placed = place_labels(
        anchors, [(b.width + 6, b.height + 4) for b in boxes], obstacles, (frame.x0, frame.y0, frame.x1, frame.y1)
    )
    back = axes.transData.inverted()
    for name, anchor, box in zip(names, anchors, placed, strict=True):
        x, y = back.transform((box[0] + 3, box[1] + 2))
        name.set_position((float(x), float(y)))
        near = min(max(anchor[0], box[0]), box[2]), min(max(anchor[1], box[1]), box[3])
        if math.dist(anchor, near) > 34:
            (x0, y0), (x1, y1) = back.transform(anchor), back.transform(near)
            axes.plot([x0, x1], [y0, y1], color="#999999", linewidth=0.6, zorder=1, scalex=False, scaley=False)


def _extent(axes: Axes, row: Row, phase: PhaseName) -> Box:
    """The pixels a point covers with its mark and its intervals."""
    timing = row.timing(phase)
    xs = [t for t in (timing.low, timing.high, timing.measured, timing.predicted) if t is not None]
    left, bottom = axes.transData.transform((min(xs) * 1e3, row.perplexity_low))
    right, top = axes.transData.transform((max(xs) * 1e3, row.perplexity_high))
    radius = 14
    return (left - radius, min(bottom, top - 2 * radius), right + radius, max(top, bottom + 2 * radius))


def caption(results: Results) -> str:
    """What the workload was, in words."""
    w = results.workload
    return (
        f"Batch {w.batch}, prefill of {w.prompt} tokens, decode at context {w.context}, "
        f"{text.significant(w.generate)} tokens generated"
    )
