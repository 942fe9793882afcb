"""Layers: where the time goes, as bars of shares; and the time each stage of the run took."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go

from hwfit.report import text
from hwfit.report.figures import new_figure
from hwfit.report.parts import swatch
from hwfit.report.results import Results
from hwfit.workload import PHASES, PhaseName


@dataclass(frozen=True)
class Family:
    """Kinds of layers that share a colour; lightness and hatching keep the families apart in grey."""

    title: str
    kinds: tuple[str, ...]
    colour: str
    shape: str = ""
    stripes: str = "#ffffff"


FAMILIES = (
    Family("q k v o projections", ("q_proj", "k_proj", "v_proj", "o_proj"), "#11529a"),
    Family("MLP projections", ("gate_proj", "up_proj", "down_proj"), "#93c0e0"),
    Family("LM head", ("lm_head",), "#d55e00", "/", "#ffffff"),
    Family("attention", ("attention",), "#222222", "-", "#ffffff"),
    Family("norms, SwiGLU, embedding", ("norm", "swiglu", "embed"), "#ffffff", "|", "#888888"),
)
OTHER = Family("overhead and other", (), "#ffffff", "x", "#888888")
EACH, AROUND = 36, 50
"""Height in pixels of a bar with the words above it, and of what is around the bars."""


LETTERS = {"narrow": 30, "wide": 58}
"""Letters of a name that stand above a bar, by the width of the page."""


def layer_bars(results: Results, phase: PhaseName) -> go.Figure | None:
    """A bar a row: the shares of its predicted time by family of layers; None if the run has none for `phase`."""
    times = _times(results, phase)
    rows = [row.name for row in results.rows if sum(times.get(row.name, {}).values()) > 0]
    if not rows:
        return None
    figure = new_figure(AROUND + EACH * len(rows), "share of the predicted time, %", "")
    figure.update_layout(barmode="stack", bargap=0.62, margin={"l": 6, "r": 16, "t": 10, "b": 40})
    figure.update_xaxes(range=[0, 100], tickvals=[0, 25, 50, 75, 100], showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", showticklabels=False, ticks="", showline=False)
    sums = {f: [max(0.0, _sum(times[name], f)) for name in rows] for f in (*FAMILIES, OTHER)}
    shown: list[float] = [sum(of_row) for of_row in zip(*sums.values(), strict=True)]
    for family, seconds in sums.items():
        if any(seconds):
            figure.add_bar(**_shares(family, rows, seconds, shown))
    notes = {
        width: [
            _note(name, words, side)
            for name in rows
            for words, side in (
                (escape(_short(name, most)), "left"),
                (f"{text.ms(sum(times[name].values()))} ms", "right"),
            )
        ]
        for width, most in LETTERS.items()
    }
    figure.update_layout(meta={**notes, "each": EACH, "around": AROUND})
    return figure


def key(results: Results) -> str:
    """The key of the bars, as HTML; swatches repeat the hatching."""
    kinds = {layer.kind for layer in results.layers}
    used = [f for f in FAMILIES if kinds & set(f.kinds)]
    used += [OTHER] if kinds - {kind for f in FAMILIES for kind in f.kinds} else []
    items = (f'<span class="item">{swatch(f.colour, f.shape, f.stripes)}{f.title}</span>' for f in used)
    return f'<p class="key">{" ".join(items)}</p>'


def exact(results: Results) -> str:
    """Milliseconds of every kind of layer, as a table to unfold."""
    kinds = list(dict.fromkeys(layer.kind for layer in results.layers))
    head = "".join(f"<th>{escape(kind)}</th>" for kind in kinds)
    lines = []
    for phase in PHASES:
        for name, times in _times(results, phase).items():
            cells = "".join(f"<td>{text.ms(times[kind]) if kind in times else '–'}</td>" for kind in kinds)
            lines.append(f'<tr data-row="{escape(name)}"><th>{escape(name)}</th><td>{phase}</td>{cells}</tr>')
    return (
        "<details><summary>Milliseconds of every kind of layer</summary><div class='scroll' tabindex='0'>"
        f"<table class='rows'><tr><th>model</th><th>phase</th>{head}</tr>{''.join(lines)}</table></div></details>"
    )


def stage_bars(results: Results) -> go.Figure:
    """A bar a stage of the run."""
    stages = results.stages
    figure = new_figure(64 + 24 * len(stages), "minutes", "")
    figure.update_yaxes(type="category", autorange="reversed", showline=False, ticks="")
    longest = max(stage.seconds for stage in stages) / 60 or 1.0
    figure.update_xaxes(range=[0, longest * 1.45])
    figure.add_bar(
        x=[stage.seconds / 60 for stage in stages],
        y=[escape(stage.name) for stage in stages],
        text=[text.duration(stage.seconds) for stage in stages],
        **{"orientation": "h", "textposition": "outside", "cliponaxis": False, "hoverinfo": "skip"},
        marker={"color": "#3d85bf"},
        showlegend=False,
    )
    return figure


def _shares(family: Family, rows: list[str], sums: list[float], shown: list[float]) -> dict[str, Any]:
    """The bar of a family: its seconds in each row over those that the row shows of all families."""
    return {
        "x": [100 * seconds / whole for seconds, whole in zip(sums, shown, strict=True)],
        "y": rows,
        "customdata": rows,
        "hovertext": [
            f"<b>{escape(name)}</b><br>{family.title}: {text.ms(seconds)} ms, {text.percent(seconds / whole)}"
            for name, seconds, whole in zip(rows, sums, shown, strict=True)
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "orientation": "h",
        "name": family.title,
        "marker": {
            "color": family.colour,
            "line": {"color": "#555555", "width": 0.6},
            "pattern": {"shape": family.shape, "fgcolor": family.stripes, "size": 7, "solidity": 0.3},
        },
    }


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _note(name: str, words: str, side: str) -> dict[str, Any]:
    return {
        **{"x": 0 if side == "left" else 100, "y": name, "text": words, "name": name, "showarrow": False},
        **{"xanchor": side, "yanchor": "bottom", "yshift": 7, "align": side, "font": {"size": 13}, "borderpad": 1},
    }


def _sum(times: dict[str, float], family: Family) -> float:
    if family.kinds:
        return sum(times.get(kind, 0.0) for kind in family.kinds)
    known = {kind for f in FAMILIES for kind in f.kinds}
    return sum(seconds for kind, seconds in times.items() if kind not in known)


def _times(results: Results, phase: PhaseName) -> dict[str, dict[str, float]]:
    """row -> kind -> seconds."""
    times: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for layer in results.layers:
        if layer.phase == phase:
            times[layer.row][layer.kind] += layer.seconds
    return times
