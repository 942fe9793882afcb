"""Pareto: the interactive plot of latency against quality, its points named by room: numbers or whole names."""

from __future__ import annotations

from html import escape
from math import log10
from typing import Any

import plotly.graph_objects as go

from hwfit.report.dominance import beaten_rows, joint_front
from hwfit.report.figures import MARGIN, error_bars, guide, log_axis, new_figure, story, times_of
from hwfit.report.labels import Box, line_boxes, place_labels
from hwfit.report.results import Results, Row
from hwfit.report.text import LOOKS
from hwfit.workload import PhaseName

HEIGHT = 460
NARROW, WIDE = 350, 760  # page widths in pixels the labels of points are placed for


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
        mode="lines",
        line={"color": LOOKS["joint"].colour, "width": 1},
        hoverinfo="skip",
    )
    for row in rows:
        _point(figure, row, phase, beaten.get(row.name))
    notes = [_limit_note(limit) for limit in limits]
    numbers = [f"<b>{i + 1}</b>" for i in range(len(rows))]
    names = [escape(row.name) for row in rows]
    narrow = notes + _names(figure, results, phase, numbers, [1] * len(rows), NARROW)
    wide = notes + _names(figure, results, phase, names, [len(row.name) for row in rows], WIDE)
    figure.update_layout(meta={"narrow": narrow, "wide": wide})
    return figure


def _point(figure: go.Figure, row: Row, phase: PhaseName, by: str | None) -> None:
    look, timing = LOOKS[row.kind], row.timing(phase)
    x, y, size = (
        timing.measured * 1e3,
        row.perplexity,
        15 if look.symbol == "star" else 11 if look.symbol != "triangle-up" else 13,
    )
    beaten = f"<br>beaten beyond the intervals by {escape(by)}" if by else ""
    hover = {"hovertemplate": f"{story(row)}{beaten}<extra></extra>"}
    if timing.predicted is not None:
        expected = timing.predicted * 1e3
        hollow = {
            "symbol": look.symbol,
            "size": size - 2,
            "color": "white",
            "line": {"color": look.colour, "width": 1.2},
        }
        dots = {"color": look.colour, "width": 1, "dash": "dot"}
        figure.add_scatter(x=[x, expected], y=[y, y], mode="lines", line=dots, hoverinfo="skip")
        figure.add_scatter(x=[expected], y=[y], mode="markers", marker=hollow, **hover)
    if row.picked:
        ring = {"symbol": "circle-open", "size": 25, "color": "black", "line": {"width": 1.6}}
        figure.add_scatter(x=[x], y=[y], mode="markers", marker=ring, hoverinfo="skip")
    figure.add_scatter(
        x=[x],
        y=[y],
        error_x=error_bars(x, timing.low * 1e3, timing.high * 1e3, look.colour),
        error_y=error_bars(y, row.perplexity_low, row.perplexity_high, look.colour),
        mode="markers",
        marker={"symbol": look.symbol, "color": look.colour, "size": size, "line": {"color": "white", "width": 1}},
        **hover,
    )


def _limit_note(limit: float) -> dict[str, Any]:
    return {
        **{"x": log10(limit * 1e3), "y": 1, "yref": "paper", "yanchor": "top", "xanchor": "right", "textangle": -90},
        **{"text": f"≤ {limit * 1e3:g} ms", "showarrow": False, "font": {"size": 11, "color": "#666"}},
    }


def _names(
    figure: go.Figure, results: Results, phase: PhaseName, words: list[str], letters: list[int], width: int
) -> list[dict[str, Any]]:
    """Annotations beside the points, placed as for a page `width` pixels wide (wider pages only spread the points)."""
    frame: Box = (MARGIN["l"], MARGIN["b"], width - MARGIN["r"], HEIGHT - MARGIN["t"])

    def pixel(x: float, y: float) -> tuple[float, float]:
        (x0, x1), (y0, y1) = figure.layout.xaxis.range, figure.layout.yaxis.range  # pyright: ignore
        across, up = (log10(x * 1e3) - x0) / (x1 - x0), (log10(y) - y0) / (y1 - y0)
        return frame[0] + across * (frame[2] - frame[0]), frame[1] + up * (frame[3] - frame[1])

    anchors = [pixel(row.timing(phase).measured, row.perplexity) for row in results.rows]
    line = {row.name for row in joint_front(results, phase)}
    joint = sorted(a for a, row in zip(anchors, results.rows, strict=True) if row.name in line)
    limits = [pixel(row.budget[phase], row.perplexity)[0] for row in results.rows if row.budget and phase in row.budget]
    marks = line_boxes(joint) + [(x - 15, frame[3] - 50, x + 2, frame[3]) for x in limits]
    for row, (x, y) in zip(results.rows, anchors, strict=True):
        times = times_of(row, phase)
        left, right = pixel(min(times), row.perplexity)[0] - 8, pixel(max(times), row.perplexity)[0] + 8
        bottom, top = (pixel(1.0, p)[1] for p in (row.perplexity_low, row.perplexity_high))
        marks += [(left, y - 8, right, y + 8), (x - 4, bottom, x + 4, top)]
    sizes = [(7.2 * n + 6, 17.0) for n in letters]
    notes = []
    for row, word, anchor, box in zip(
        results.rows, words, anchors, place_labels(anchors, sizes, marks, frame), strict=True
    ):
        notes.append(
            {
                **{"x": log10(row.timing(phase).measured * 1e3), "y": log10(row.perplexity), "text": word},
                **{"ax": (box[0] + box[2]) / 2 - anchor[0], "ay": anchor[1] - (box[1] + box[3]) / 2},
                **{"arrowhead": 0, "arrowwidth": 0.7, "arrowcolor": "#888", "standoff": 7, "borderpad": 1},
                **{"font": {"size": 13}, "bgcolor": "rgba(255,255,255,0.7)"},
            }
        )
    return notes
