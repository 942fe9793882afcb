"""Figures: what the page's interactive plots share.

A trace of one model says which in `meta["row"]`, an annotation in `name`; a trace with a point a model lists them in
`customdata`. `page.js` filters and highlights by these. `meta["role"]` is `mark` for the trace that stands for its
model (the arrow keys walk through them) and `curve` for a line that is drawn thicker when its model is selected,
`digits` for text that shrinks with the cells it stands in.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import log10
from typing import Any

import plotly.graph_objects as go

from hwfit.report import text
from hwfit.report.results import Row
from hwfit.report.text import LOOKS
from hwfit.workload import PhaseName

MARGIN = {"l": 52, "r": 10, "t": 12, "b": 44}
AXIS = {"showline": True, "linecolor": "#444", "gridcolor": "#e6e6e6", "zeroline": False, "ticks": "outside"}


def new_figure(height: int, x: str, y: str) -> go.Figure:
    """An empty figure with axis titles, as wide as its place on the page."""
    return go.Figure(
        layout={
            "height": height,
            "margin": MARGIN,
            "plot_bgcolor": "white",
            "paper_bgcolor": "white",
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#1a1a1a"},
            "showlegend": False,  # the page has keys that wrap; saved pictures get a legend
            "hoverlabel": {"bgcolor": "white", "font": {"size": 13}, "align": "left"},
            "xaxis": {**AXIS, "title": {"text": x, "standoff": 8, "font": {"size": 13}}},
            "yaxis": {**AXIS, "automargin": True, "title": {"text": y, "standoff": 6, "font": {"size": 13}}},
        }
    )


def log_axis(values: Sequence[float], top: float = 0.06, most: int = 8) -> dict[str, Any]:
    """A logarithmic axis wider than `values` by a share of their span, with at most `most` plain numbers on it."""
    least, greatest = min(values), max(values)
    span = max(greatest / least, 1.2)
    low, high = least / span**0.06, greatest * span**top
    ticks = text.log_ticks(low, high, most)
    return {
        "type": "log",
        "range": [log10(low), log10(high)],
        "tickvals": list(ticks),
        "ticktext": list(ticks.values()),
    }


def times_of(row: Row, phase: PhaseName) -> list[float]:
    """Every time of a row a plot has to have room for, in seconds."""
    t = row.timing(phase)
    return [t.low, t.measured, t.high] + ([] if t.predicted is None else [t.predicted])


def guide(figure: go.Figure, x: Sequence[Any], y: Sequence[Any], **axes: str) -> None:
    """A thin dashed line behind whatever is drawn after it."""
    line = {"color": "#999", "width": 1, "dash": "dash"}
    figure.add_scatter(x=list(x), y=list(y), mode="lines", line=line, hoverinfo="skip", showlegend=False, **axes)


def error_bars(value: float, low: float, high: float, colour: str) -> dict[str, Any]:
    """An interval from `low` to `high` around `value`."""
    reach = {"array": [max(0.0, high - value)], "arrayminus": [max(0.0, value - low)]}
    return {"type": "data", "symmetric": False, "color": colour, "thickness": 1.2, "width": 3, **reach}


def _legend(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    """A trace's name in the legend of a saved picture: once a kind."""
    first = next(r for r in rows if r.kind == row.kind)
    return {"name": LOOKS[row.kind].title, "legendgroup": row.kind, "showlegend": row is first}


def mark_of(row: Row, rows: Sequence[Row], phase: PhaseName, size: int) -> dict[str, Any]:
    """A row's point over its measured milliseconds, with their interval; its `y` is the caller's."""
    look, timing = LOOKS[row.kind], row.timing(phase)
    x = timing.measured * 1e3
    edge = {"color": "white", "width": 1}
    return {
        "x": [x],
        "error_x": error_bars(x, timing.low * 1e3, timing.high * 1e3, look.colour),
        "mode": "markers",
        "marker": {"symbol": look.symbol, "color": look.colour, "size": size, "line": edge},
        "meta": {"row": row.name, "role": "mark"},
        **_legend(row, rows),
    }


def story(row: Row) -> str:
    """What hovering a point tells."""
    lines = [f"<b>{escape(row.name)}</b> · {LOOKS[row.kind].title}"]
    for phase in ("decode", "prefill"):
        t = row.timing(phase)
        guess = "" if t.error is None else f", predicted {text.ms(t.predicted or 0)} ({text.percent(t.error, True)})"
        lines.append(f"{phase} {text.ms(t.measured)} ms [{text.ms(t.low)}–{text.ms(t.high)}]{guess}")
    lines += [f"budget {text.budget(row)}"] if row.budget else []
    interval = f"[{text.significant(row.perplexity_low)}–{text.significant(row.perplexity_high)}]"
    lines.append(f"perplexity {text.significant(row.perplexity)} {interval}")
    lines += [f"accuracy {100 * row.accuracy_mean:.1f} %"] if row.accuracy_mean is not None else []
    lines.append(f"{text.mb(row.size_bytes)} MB, {row.weight_bits:.1f} bits a weight")
    return "<br>".join([*lines, text.widths(row).replace(", MLP", "<br>MLP")])
