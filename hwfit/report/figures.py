"""Figures: what the page's interactive plots share, and the plots of predictions and of the search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from math import log10
from typing import Any

import plotly.graph_objects as go

from hwfit.report import text
from hwfit.report.results import Results, Row, Step
from hwfit.report.text import LOOKS
from hwfit.workload import PhaseName

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SHADES = ("#0072b2", "#d55e00", "#000000", "#009e73", "#9b4f96", "#7a5c00")
MARGIN = {"l": 52, "r": 10, "t": 12, "b": 44}
AGAINST_BUDGET = "expected cost ÷ budget"
PANELS: dict[str, Callable[[Step], float]] = {
    "training loss": lambda s: s.loss,
    AGAINST_BUDGET: lambda s: s.expected / s.budget,
    "entropy of the choices": lambda s: s.entropy,
    "budget multiplier": lambda s: s.multiplier,
}


def predictions(results: Results, phase: PhaseName) -> go.Figure:
    """Predicted against measured latency, with the line of equality and a band of ± 8 % around it."""
    rows = [row for row in results.rows if row.timing(phase).predicted is not None]
    figure = new_figure(360, f"{phase}, ms measured", "ms predicted")
    axis = log_axis([t * 1e3 for row in rows for t in times_of(row, phase)] or [1.0])
    ends = [10**v for v in axis["range"]]
    figure.update_xaxes(axis)
    figure.update_yaxes(axis)
    band = {"x": [*ends, *ends[::-1]], "y": [ends[0] * 1.08, ends[1] * 1.08, ends[1] * 0.92, ends[0] * 0.92]}
    figure.add_scatter(**band, fill="toself", fillcolor="#ececec", line={"width": 0}, mode="lines", hoverinfo="skip")
    figure.add_scatter(x=ends, y=ends, mode="lines", line={"color": "#888", "width": 1}, hoverinfo="skip")
    for row in rows:
        timing, look = row.timing(phase), LOOKS[row.kind]
        assert timing.predicted is not None
        figure.add_scatter(
            x=[timing.measured * 1e3],
            y=[timing.predicted * 1e3],
            error_x=error_bars(timing.measured * 1e3, timing.low * 1e3, timing.high * 1e3, look.colour),
            mode="markers",
            marker={"symbol": look.symbol, "color": look.colour, "size": 10, "line": {"color": "white", "width": 1}},
            hovertemplate=story(row) + "<extra></extra>",
        )
    return figure


def trajectories(results: Results, panel: str) -> go.Figure:
    """One quantity of `PANELS` over the search's steps, a line a budget."""
    figure = new_figure(260, "step", panel)
    value = PANELS[panel]
    if panel == AGAINST_BUDGET:
        steps = [s.step for run in results.search for s in run.steps]
        guide(figure, [min(steps), max(steps)], [1, 1])
    for i, run in enumerate(results.search):
        figure.add_scatter(
            x=[s.step for s in run.steps],
            y=[value(s) for s in run.steps],
            mode="lines",
            line={"color": SHADES[i % len(SHADES)], "dash": DASHES[i % len(DASHES)], "width": 1.8},
            hovertemplate=f"{escape(run.budget_name)}: %{{y:.4g}} at step %{{x}}<extra></extra>",
        )
    return figure


def new_figure(height: int, x: str, y: str) -> go.Figure:
    """An empty figure with axis titles, as wide as its place on the page."""
    axis = {"showline": True, "linecolor": "#444", "gridcolor": "#e6e6e6", "zeroline": False, "ticks": "outside"}
    return go.Figure(
        layout={
            "height": height,
            "margin": MARGIN,
            "plot_bgcolor": "white",
            "paper_bgcolor": "white",
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#1a1a1a"},
            "showlegend": False,
            "hoverlabel": {"bgcolor": "white", "font": {"size": 13}, "align": "left"},
            "xaxis": {**axis, "title": {"text": x, "standoff": 8, "font": {"size": 13}}},
            "yaxis": {**axis, "automargin": True, "title": {"text": y, "standoff": 6, "font": {"size": 13}}},
        }
    )


def log_axis(values: Sequence[float], top: float = 0.06) -> dict[str, Any]:
    """A logarithmic axis wider than `values` by a share of their span, with at most eight plain numbers on it."""
    least, most = min(values), max(values)
    span = max(most / least, 1.2)
    low, high = least / span**0.06, most * span**top
    ticks = text.log_ticks(low, high)
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


def guide(figure: go.Figure, x: Sequence[float], y: Sequence[float]) -> None:
    """A thin dashed line behind whatever is drawn after it."""
    line = {"color": "#999", "width": 1, "dash": "dash"}
    figure.add_scatter(x=list(x), y=list(y), mode="lines", line=line, hoverinfo="skip")


def error_bars(value: float, low: float, high: float, colour: str) -> dict[str, Any]:
    """An interval from `low` to `high` around `value`."""
    reach = {"array": [max(0.0, high - value)], "arrayminus": [max(0.0, value - low)]}
    return {"type": "data", "symmetric": False, "color": colour, "thickness": 1.2, "width": 3, **reach}


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
