"""Predictions: predicted against measured latency."""

from __future__ import annotations

import plotly.graph_objects as go

from hwfit.report.canvas import HALF, NARROW, Canvas, Name
from hwfit.report.figures import log_axis, mark_of, new_figure, story, times_of
from hwfit.report.labels import line_boxes
from hwfit.report.results import Results
from hwfit.workload import PhaseName

BAND = 0.08
"""Share around the line of equality that is shaded."""


def predictions(results: Results, phase: PhaseName) -> go.Figure:
    """Predicted against measured latency, with the line of equality and a band around it; points have numbers."""
    rows = [row for row in results.rows if row.timing(phase).predicted is not None]
    figure = new_figure(360, f"{phase}, ms measured", "ms predicted")
    axis = log_axis([t * 1e3 for row in rows for t in times_of(row, phase)] or [1.0])
    low, high = (10**v for v in axis["range"])
    figure.update_xaxes(axis)
    figure.update_yaxes(axis)
    around = {
        "x": [low, high, high, low],
        "y": [low * (1 + BAND), high * (1 + BAND), high * (1 - BAND), low * (1 - BAND)],
    }
    quiet = {"mode": "lines", "hoverinfo": "skip", "showlegend": False}
    figure.add_scatter(**around, **quiet, fill="toself", fillcolor="#ececec", line={"width": 0})
    figure.add_scatter(x=[low, high], y=[low, high], **quiet, line={"color": "#888", "width": 1})
    points = []
    for row in rows:
        timing = row.timing(phase)
        assert timing.predicted is not None
        x, y = timing.measured * 1e3, timing.predicted * 1e3
        points.append((x, y))
        figure.add_scatter(y=[y], hovertemplate=story(row) + "<extra></extra>", **mark_of(row, rows, phase, 10))
    names = [Name(row.name, f"<b>{number}</b>", 1) for number, row in enumerate(results.rows, 1) if row in rows]
    notes = {}
    for width, pixels in (("narrow", NARROW), ("wide", HALF)):
        canvas = Canvas(figure, pixels)
        marks = line_boxes([canvas.pixel(low, low), canvas.pixel(high, high)])
        marks += [(x - 12, y - 12, x + 12, y + 12) for x, y in (canvas.pixel(*point) for point in points)]
        notes[width] = canvas.names(points, names, marks)
    figure.update_layout(meta=notes)
    return figure
