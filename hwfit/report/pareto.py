"""Pareto: the interactive plot of latency against quality, its points named by room: numbers or whole names."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import log10
from typing import Any

import plotly.graph_objects as go

from hwfit.report.canvas import NARROW, WIDE, Canvas, Name
from hwfit.report.dominance import beaten_rows, joint_front
from hwfit.report.figures import error_bars, guide, log_axis, mark_of, new_figure, story, times_of
from hwfit.report.labels import Box, line_boxes, overlap
from hwfit.report.results import Results, Row
from hwfit.report.text import LOOKS
from hwfit.workload import PhaseName

HEIGHT = 460
LONGEST = 28
"""Letters of a name; above that points have numbers at every width."""
SIZES = {"star": 15, "triangle-up": 13}


def pareto(results: Results, phase: PhaseName) -> go.Figure:
    """Measured latency against perplexity; the line joins the joint subnets that no other beats (`dominance`).

    `layout.meta` holds the names for wide and the numbers for narrow pages."""
    rows = results.rows
    limits = sorted({row.budget[phase] for row in rows if row.budget and phase in row.budget})
    times = [t * 1e3 for t in [*limits, *(t for row in rows for t in times_of(row, phase))]]
    quality = [p for row in rows for p in (row.perplexity_low, row.perplexity_high)]
    figure = new_figure(HEIGHT, f"{phase}, ms measured", "perplexity on held-out text")
    figure.update_xaxes(log_axis(times))
    figure.update_yaxes(log_axis(quality, top=0.17 if limits else 0.06))
    for limit in limits:
        guide(figure, [limit * 1e3] * 2, [10**v for v in figure.layout.yaxis.range])  # pyright: ignore
    joint, beaten = joint_front(results, phase), beaten_rows(results, phase)
    figure.add_scatter(
        x=[row.timing(phase).measured * 1e3 for row in joint],
        y=[row.perplexity for row in joint],
        customdata=[row.name for row in joint],
        mode="lines",
        line={"color": LOOKS["joint"].colour, "width": 1},
        hoverinfo="skip",
        showlegend=False,
    )
    for row in rows:
        _point(figure, row, rows, phase, beaten.get(row.name))
    numbers = [Name(row.name, f"<b>{i + 1}</b>", len(str(i + 1))) for i, row in enumerate(rows)]
    names = [Name(row.name, escape(row.name), len(row.name)) for row in rows] if named(results) else numbers
    narrow = _notes(Canvas(figure, NARROW), results, phase, limits, numbers)
    wide = _notes(Canvas(figure, WIDE), results, phase, limits, names)
    figure.update_layout(meta={"narrow": narrow, "wide": wide})
    return figure


def named(results: Results) -> bool:
    """Whether names are short enough to stand beside the points of a wide page."""
    return max(len(row.name) for row in results.rows) <= LONGEST


def _point(figure: go.Figure, row: Row, rows: Sequence[Row], phase: PhaseName, by: str | None) -> None:
    look, timing = LOOKS[row.kind], row.timing(phase)
    x, y, size = timing.measured * 1e3, row.perplexity, SIZES.get(look.symbol, 11)
    beaten = f"<br>beaten beyond the intervals by {escape(by)}" if by else ""
    hover = {"hovertemplate": f"{story(row)}{beaten}<extra></extra>"}
    quiet: dict[str, Any] = {"meta": {"row": row.name}, "showlegend": False}
    if timing.predicted is not None:
        expected = timing.predicted * 1e3
        hollow = {"symbol": look.symbol, "size": size - 2, "color": "white"}
        hollow["line"] = {"color": look.colour, "width": 1.2}
        dots = {"color": look.colour, "width": 1, "dash": "dot"}
        figure.add_scatter(x=[x, expected], y=[y, y], mode="lines", line=dots, hoverinfo="skip", **quiet)
        figure.add_scatter(x=[expected], y=[y], mode="markers", marker=hollow, **hover, **quiet)
    if row.picked:
        ring = {"symbol": "circle-open", "size": 25, "color": "black", "line": {"width": 1.6}}
        figure.add_scatter(x=[x], y=[y], mode="markers", marker=ring, hoverinfo="skip", **quiet)
    reach = error_bars(y, row.perplexity_low, row.perplexity_high, look.colour)
    figure.add_scatter(y=[y], error_y=reach, **hover, **mark_of(row, rows, phase, size))


LIMIT: tuple[float, float] = (15.0, 52.0)
"""Pixels across and down of the words at a budget's line."""


def _notes(
    canvas: Canvas, results: Results, phase: PhaseName, limits: Sequence[float], names: list[Name]
) -> list[dict[str, Any]]:
    """The budgets' words and the names beside the points, which keep off marks, intervals, the front and these."""
    placed = _limit_boxes(canvas, limits)
    notes = [_limit_note(limit, canvas.frame[3] - box[3]) for limit, box in zip(limits, placed, strict=True)]
    points = [(row.timing(phase).measured * 1e3, row.perplexity) for row in results.rows]
    front = {row.name for row in joint_front(results, phase)}
    joint = sorted(canvas.pixel(*p) for p, row in zip(points, results.rows, strict=True) if row.name in front)
    marks = line_boxes(joint) + placed
    for row, point in zip(results.rows, points, strict=True):
        x, y = canvas.pixel(*point)
        left, right = (canvas.pixel(t * 1e3, 1.0)[0] for t in (f(times_of(row, phase)) for f in (min, max)))
        bottom, high = (canvas.pixel(point[0], p)[1] for p in (row.perplexity_low, row.perplexity_high))
        marks += [(left - 8, y - 8, right + 8, y + 8), (x - 4, bottom, x + 4, high)]
    return notes + canvas.names(points, names, marks)


def _limit_boxes(canvas: Canvas, limits: Sequence[float]) -> list[Box]:
    """Where the words of `limits` (sorted) stand: at the top, or below those before that they would cover."""
    boxes: list[Box] = []
    for limit in limits:
        right, top = canvas.pixel(limit * 1e3, 1.0)[0] + 2, canvas.frame[3]
        while any(overlap((right - LIMIT[0], top - LIMIT[1], right, top), box) for box in boxes):
            top -= LIMIT[1]
        boxes.append((right - LIMIT[0], top - LIMIT[1], right, top))
    return boxes


def _limit_note(limit: float, down: float) -> dict[str, Any]:
    return {
        **{"x": log10(limit * 1e3), "y": 1, "yref": "paper", "yanchor": "top", "xanchor": "right", "textangle": -90},
        **{"text": f"≤ {limit * 1e3:g} ms", "showarrow": False, "font": {"size": 11, "color": "#555"}},
        **{"yshift": -down, "bgcolor": "rgba(255,255,255,0.7)", "borderpad": 0},
    }
