"""Drift view: how far a model's predictions and answers are from its original's, as plots and words."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from hwfit.evaluate.divergence import Divergence
from hwfit.evaluate.drift import UNPROVEN, Drift
from hwfit.report import text
from hwfit.report.figures import AXIS, guide, log_axis, new_figure
from hwfit.report.parts import swatch

GROUPS = {"domains": ("domain", "circle"), "languages": ("language", "square"), "long": ("long context", "diamond")}
INK, LEAST_KL = "#0072b2", 1e-6
SHOWN = 5
"""Broken limits that are listed at once; the others unfold."""
ENDINGS = (
    ("lost", "right → wrong", "#d55e00", "/", "#ffffff"),
    ("won", "wrong → right", "#93c0e0", "", "#ffffff"),
    ("swapped", "wrong → another wrong", "#ffffff", "x", "#888888"),
)
"""Field of `Flips`, what it means, and its colour, hatching and the colour of that."""


def has_predictions(drift: Drift) -> bool:
    """Whether `prediction_drift` has anything to draw."""
    return any(d.drawable for *_, d in _entries(drift))


def prediction_drift(drift: Drift) -> go.Figure:
    """A line a text: on the left its perplexity over the original's, on the right the divergence, mean and tail."""
    entries = [entry for entry in _entries(drift) if entry[-1].drawable]
    figure = new_figure(76 + 17 * len(entries), "perplexity ratio", "")
    limits = drift.limits
    ratios = [d.after / d.before for *_, d in entries]
    kls = [max(kl, LEAST_KL) for *_, d in entries for kl in (d.kl, d.kl_p99)]
    right = {
        **AXIS,
        "domain": [0.54, 1.0],
        "anchor": "y",
        **log_axis([*kls, max(limits.kl, LEAST_KL)], most=3),
        "tickangle": 0,
    }
    figure.update_layout(margin={"l": 8, "r": 10, "t": 20, "b": 46}, xaxis2=right)
    figure.update_layout(xaxis2={"title": {"text": "KL, nats", "standoff": 8, "font": {"size": 13}}})
    figure.update_xaxes(log_axis([1.0, 1 + limits.perplexity, *ratios], most=3), selector={"anchor": None})
    figure.update_layout(xaxis={"domain": [0.0, 0.46]})
    ends = [-0.5, len(entries) - 0.5]
    labels = [f"{escape(name)}" for _, name, _ in entries]
    lines: dict[str, Any] = {"tickmode": "array", "tickvals": list(range(len(entries))), "ticktext": labels}
    figure.update_layout(yaxis={**lines, "range": ends[::-1], "tickfont": {"size": 11}})
    for value, axis in ((1.0, "x"), (1 + limits.perplexity, "x"), (max(limits.kl, LEAST_KL), "x2")):
        guide(figure, [value, value], ends, xaxis=axis)
    for group, (title, symbol) in GROUPS.items():
        some = [(i, name, d) for i, (g, name, d) in enumerate(entries) if g == group]
        if some:
            _marks(figure, title, symbol, some)
    return figure


def _entries(drift: Drift) -> list[tuple[str, str, Divergence]]:
    """(group, text, what was found on it)."""
    return [(group, name, d) for group in GROUPS for name, d in getattr(drift, group).items()]


def _marks(figure: go.Figure, title: str, symbol: str, some: list[tuple[int, str, Divergence]]) -> None:
    y = [i for i, *_ in some]
    words = [_words(name, d) for _, name, d in some]
    hover = {"hovertext": words, "hovertemplate": "%{hovertext}<extra></extra>", "mode": "markers"}
    filled = {"symbol": symbol, "color": INK, "size": 9}
    hollow = {"symbol": f"{symbol}-open", "color": INK, "size": 8}
    figure.add_scatter(x=[d.after / d.before for *_, d in some], y=y, marker=filled, name=title, **hover)
    tail = {"xaxis": "x2", "name": f"{title}, one token in a hundred"}
    figure.add_scatter(
        x=[max(d.kl, LEAST_KL) for *_, d in some], y=y, marker=filled, xaxis="x2", showlegend=False, **hover
    )
    figure.add_scatter(x=[max(d.kl_p99, LEAST_KL) for *_, d in some], y=y, marker=hollow, **tail, **hover)


def flip_drift(drift: Drift) -> go.Figure:
    """A bar a benchmark: shares of its documents whose answer changed, by how."""
    names = [f"{escape(name)} ({f.n})" for name, f in drift.flips.items()]
    figure = new_figure(84 + 26 * len(names), "answers that changed, %", "")
    figure.update_layout(barmode="stack", bargap=0.4, margin={"l": 8, "r": 10, "t": 8, "b": 44})
    figure.update_yaxes(type="category", autorange="reversed")
    most = max([100 * f.changed for f in drift.flips.values()] + [100 * drift.limits.flips])
    figure.update_xaxes(range=[0, most * 1.08 or 1])
    for key, title, colour, shape, stripes in ENDINGS:
        counts = [getattr(f, key) for f in drift.flips.values()]
        figure.add_bar(
            x=[100 * count / f.n for count, f in zip(counts, drift.flips.values(), strict=True)],
            y=names,
            orientation="h",
            name=title,
            hovertext=[f"{count} of {f.n}" for count, f in zip(counts, drift.flips.values(), strict=True)],
            hovertemplate=f"%{{y}}: %{{hovertext}} {title}<extra></extra>",
            marker={
                "color": colour,
                "line": {"color": "#555555", "width": 0.8},
                "pattern": {
                    "shape": shape,
                    "fgcolor": stripes,
                    "size": 7,
                    "solidity": 0.3,
                },
            },
        )
    figure.add_vline(x=100 * drift.limits.flips, line={"color": "#555", "width": 1.2, "dash": "dash"})
    return figure


def drift_words(drift: Drift) -> str:
    """The verdict with every broken limit, and the refusals, as HTML."""
    against = f"Against {escape(drift.original)}: "
    if drift.failures:
        count = "1 limit" if len(drift.failures) == 1 else f"{len(drift.failures)} limits"
        verdict = f"<p><b>✗ breaks {count}.</b> {against}</p>"
        verdict += _list(drift.failures[:SHOWN])
        if rest := drift.failures[SHOWN:]:
            verdict += f"<details><summary>and {len(rest)} more</summary>{_list(rest)}</details>"
    else:
        verdict = f"<p><b>✓ within all limits.</b> {against}nothing changed by more than they allow.</p>"
    if lost := [f"{escape(name)} ({GROUPS[group][0]})" for group, name, d in _entries(drift) if not d.drawable]:
        verdict += f"<p>Broken beyond any scale, so not drawn: {', '.join(lost)}.</p>"
    if r := drift.refusals:
        verdict += (
            f"<p>Refusals: {r.unsafe_before} → {r.unsafe_after} of {r.unsafe} unsafe prompts, {r.benign_before} → "
            f"{r.benign_after} of {r.benign} harmless ones; {len(r.lost)} lost, {len(r.new)} new.</p>"
        )
    return verdict


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def unproven() -> str:
    return f"<details><summary>What this does not prove</summary>{_list(UNPROVEN)}</details>"


def key() -> str:
    """The key of both plots, as HTML."""
    marks = {"●": "domain", "■": "language", "◆": "long context", "○ □ ◇": "one token in a hundred is beyond"}
    items = [f'<span class="item">{mark} {words}</span>' for mark, words in marks.items()]
    items += ['<span class="item">┆ limits, and no change (ratio 1)</span>']
    items += [f'<span class="item">{swatch(*look)}{title}</span>' for _, title, *look in ENDINGS]
    return f'<p class="key">{" ".join(items)}</p>'


def _words(name: str, d: Divergence) -> str:
    return (
        f"<b>{escape(name)}</b>, {d.tokens} tokens<br>perplexity {text.significant(d.before)} → "
        f"{text.significant(d.after)} ({text.percent(d.increase, True)})<br>KL {d.kl:.3g} nats a token, one in "
        f"a hundred above {d.kl_p99:.3g}<br>same most likely token: {text.percent(d.same)}"
    )
