"""Figures: the interactive plots of the page. They take the width they get; hovering a point tells all of its row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from math import log10
from typing import Any

import plotly.graph_objects as go

from hwfit.report import text
from hwfit.report.labels import Box, line_boxes, place_labels
from hwfit.report.results import Results, Row, Step
from hwfit.report.text import LOOKS
from hwfit.workload import PhaseName

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SHADES = ("#0072b2", "#d55e00", "#000000", "#009e73", "#9b4f96", "#7a5c00")
PARETO_HEIGHT = 460
MARGIN = {"l": 52, "r": 10, "t": 12, "b": 44}
NARROW, WIDE = 350, 760  # page widths in pixels the labels of points are placed for
AGAINST_BUDGET = "expected cost ÷ budget"
PANELS: dict[str, Callable[[Step], float]] = {
    "training loss": lambda s: s.loss,
    AGAINST_BUDGET: lambda s: s.expected / s.budget,
    "entropy of the choices": lambda s: s.entropy,
    "budget multiplier": lambda s: s.multiplier,
}


def pareto(results: Results, phase: PhaseName) -> go.Figure:
    """Measured latency against perplexity. `layout.meta` holds the names for wide and the numbers for narrow pages."""
    rows = results.rows
    limits = sorted({row.budget[phase] for row in rows if row.budget and phase in row.budget})
    times = [t * 1e3 for t in [*limits, *(t for row in rows for t in _times(row, phase))]]
    quality = [p for row in rows for p in (row.perplexity_low, row.perplexity_high)]
    figure = _figure(PARETO_HEIGHT, f"{phase}, ms measured", "perplexity on held-out text")
    figure.update_xaxes(_log_axis(times))
    figure.update_yaxes(_log_axis(quality, top=0.17 if limits else 0.06))
    for limit in limits:
        _guide(figure, [limit * 1e3] * 2, [10**v for v in figure.layout.yaxis.range])  # pyright: ignore
    joint = sorted(results.of_kind("joint"), key=lambda row: row.timing(phase).measured)
    figure.add_scatter(
        x=[row.timing(phase).measured * 1e3 for row in joint],
        y=[row.perplexity for row in joint],
        mode="lines",
        line={"color": LOOKS["joint"].colour, "width": 1},
        hoverinfo="skip",
    )
    for row in rows:
        _point(figure, row, phase)
    notes = [_limit_note(limit) for limit in limits]
    numbers = [f"<b>{i + 1}</b>" for i in range(len(rows))]
    names = [escape(row.name) for row in rows]
    narrow = notes + _names(figure, results, phase, numbers, [1] * len(rows), NARROW)
    wide = notes + _names(figure, results, phase, names, [len(row.name) for row in rows], WIDE)
    figure.update_layout(meta={"narrow": narrow, "wide": wide})
    return figure


def predictions(results: Results, phase: PhaseName) -> go.Figure:
    """Predicted against measured latency, with the line of equality and a band of ± 8 % around it."""
    rows = [row for row in results.rows if row.timing(phase).predicted is not None]
    figure = _figure(360, f"{phase}, ms measured", "ms predicted")
    axis = _log_axis([t * 1e3 for row in rows for t in _times(row, phase)] or [1.0])
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
            error_x=_bars(timing.measured * 1e3, timing.low * 1e3, timing.high * 1e3, look.colour),
            mode="markers",
            marker={"symbol": look.symbol, "color": look.colour, "size": 10, "line": {"color": "white", "width": 1}},
            hovertemplate=_story(row) + "<extra></extra>",
        )
    return figure


def trajectories(results: Results, panel: str) -> go.Figure:
    """One quantity of `PANELS` over the search's steps, a line a budget."""
    figure = _figure(260, "step", panel)
    value = PANELS[panel]
    if panel == AGAINST_BUDGET:
        steps = [s.step for run in results.search for s in run.steps]
        _guide(figure, [min(steps), max(steps)], [1, 1])
    for i, run in enumerate(results.search):
        figure.add_scatter(
            x=[s.step for s in run.steps],
            y=[value(s) for s in run.steps],
            mode="lines",
            line={"color": SHADES[i % len(SHADES)], "dash": DASHES[i % len(DASHES)], "width": 1.8},
            hovertemplate=f"{escape(run.budget_name)}: %{{y:.4g}} at step %{{x}}<extra></extra>",
        )
    return figure


def _figure(height: int, x: str, y: str) -> go.Figure:
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
            "yaxis": {**axis, "title": {"text": y, "standoff": 6, "font": {"size": 13}}},
        }
    )


def _log_axis(values: Sequence[float], top: float = 0.06) -> dict[str, Any]:
    """A logarithmic axis wider than `values` by a share of their span, with at most eight plain numbers on it."""
    least, most = min(values), max(values)
    span = max(most / least, 1.2)
    low, high = least / span**0.06, most * span**top
    densities = ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5, 7), (1, 2, 5), (1,))
    candidates = [
        [d * 10.0**e for e in range(-4, 12) for d in digits if low <= d * 10.0**e <= high] for digits in densities
    ]
    ticks = next((ticks for ticks in candidates if 2 <= len(ticks) <= 8), [least, most])
    labels = [text.significant(t, 2) if t < 10 else f"{t:,.0f}" for t in ticks]
    return {
        "type": "log",
        "range": [log10(low), log10(high)],
        "tickvals": ticks,
        "ticktext": [label.removesuffix(".0") for label in labels],
    }


def _times(row: Row, phase: PhaseName) -> list[float]:
    t = row.timing(phase)
    return [t.low, t.measured, t.high] + ([] if t.predicted is None else [t.predicted])


def _guide(figure: go.Figure, x: Sequence[float], y: Sequence[float]) -> None:
    """A thin dashed line behind whatever is drawn after it."""
    line = {"color": "#999", "width": 1, "dash": "dash"}
    figure.add_scatter(x=list(x), y=list(y), mode="lines", line=line, hoverinfo="skip")


def _bars(value: float, low: float, high: float, colour: str) -> dict[str, Any]:
    reach = {"array": [max(0.0, high - value)], "arrayminus": [max(0.0, value - low)]}
    return {"type": "data", "symmetric": False, "color": colour, "thickness": 1.2, "width": 3, **reach}


def _point(figure: go.Figure, row: Row, phase: PhaseName) -> None:
    look, timing = LOOKS[row.kind], row.timing(phase)
    x, y, size = (
        timing.measured * 1e3,
        row.perplexity,
        15 if look.symbol == "star" else 11 if look.symbol != "triangle-up" else 13,
    )
    hover = {"hovertemplate": _story(row) + "<extra></extra>"}
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
        error_x=_bars(x, timing.low * 1e3, timing.high * 1e3, look.colour),
        error_y=_bars(y, row.perplexity_low, row.perplexity_high, look.colour),
        mode="markers",
        marker={"symbol": look.symbol, "color": look.colour, "size": size, "line": {"color": "white", "width": 1}},
        **hover,
    )


def _story(row: Row) -> str:
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


def _limit_note(limit: float) -> dict[str, Any]:
    return {
        **{"x": log10(limit * 1e3), "y": 1, "yref": "paper", "yanchor": "top", "xanchor": "right", "textangle": -90},
        **{"text": f"≤ {limit * 1e3:g} ms", "showarrow": False, "font": {"size": 11, "color": "#666"}},
    }


def _names(
    figure: go.Figure, results: Results, phase: PhaseName, words: list[str], letters: list[int], width: int
) -> list[dict[str, Any]]:
    """Annotations beside the points, placed as for a page `width` pixels wide (wider pages only spread the points)."""
    frame: Box = (MARGIN["l"], MARGIN["b"], width - MARGIN["r"], PARETO_HEIGHT - MARGIN["t"])

    def pixel(x: float, y: float) -> tuple[float, float]:
        (x0, x1), (y0, y1) = figure.layout.xaxis.range, figure.layout.yaxis.range  # pyright: ignore
        across, up = (log10(x * 1e3) - x0) / (x1 - x0), (log10(y) - y0) / (y1 - y0)
        return frame[0] + across * (frame[2] - frame[0]), frame[1] + up * (frame[3] - frame[1])

    anchors = [pixel(row.timing(phase).measured, row.perplexity) for row in results.rows]
    joint = sorted(a for a, row in zip(anchors, results.rows, strict=True) if row.kind == "joint")
    limits = [pixel(row.budget[phase], row.perplexity)[0] for row in results.rows if row.budget and phase in row.budget]
    marks = line_boxes(joint) + [(x - 15, frame[3] - 50, x + 2, frame[3]) for x in limits]
    for row, (x, y) in zip(results.rows, anchors, strict=True):
        times = _times(row, phase)
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
