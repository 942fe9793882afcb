"""Training: loss, entropy and what is left of each budget, step by step, of the search and of the distillation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite
from pathlib import Path

import plotly.graph_objects as go

from hwfit.errors import HwfitError
from hwfit.report.figures import guide, new_figure
from hwfit.report.results import Results, Row, Trajectory
from hwfit.search.steps_log import read_steps

DASHES = ("", "7 4", "2 3", "7 3 2 3", "16 4", "2 2 2 2 10 2")
"""Lengths of strokes and gaps in pixels, as SVG has them."""
SHADES = ("#0072b2", "#d55e00", "#000000", "#009e73", "#9b4f96", "#7a5c00")
MARKS = (("circle", "●"), ("square", "■"), ("diamond", "◆"), ("triangle-up", "▲"), ("x", "✖"), ("star", "★"))
SHORT = 8
"""Curves with fewer steps have marks, which tell them apart where dashes cannot."""
STAGES = ("search", "distil")
SLACK = "slack_"


@dataclass(frozen=True)
class Curve:
    """The logged steps of one stage of one model: quantity -> value a step, all as long as `steps`."""

    stage: str
    row: str
    steps: tuple[float, ...]
    values: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Panel:
    """One quantity of one stage, a line a model. `slack_…` is the share of a budget that is left, below 0 over it."""

    stage: str
    quantity: str
    title: str


def read_curves(run_dir: Path, results: Results) -> tuple[Curve, ...]:
    """What `logs/` of a run tells (every budget), and of searches that are not there `results.json` (the first one).

    Raises `HwfitError` for a damaged log.
    """
    found = {}
    for stage in STAGES:
        for row in results.rows:
            path = run_dir / "logs" / f"{stage}-{row.name}.csv"
            steps = read_steps(path) if Path(row.name).name == row.name and path.is_file() else []
            if steps:
                if "step" not in steps[0]:
                    raise HwfitError(f"{path}: has no column 'step'; delete it and run again to write it anew")
                names = [name for name in steps[0] if name != "step"]
                if not all(isfinite(value) for step in steps for value in step.values()):
                    raise HwfitError(f"{path}: holds a value that is no finite number; delete it to write it anew")
                values = {name: tuple(step[name] for step in steps) for name in names}
                found[stage, row.name] = Curve(stage, row.name, tuple(step["step"] for step in steps), values)
    for run in results.search:
        name = row_of(run, results.rows)
        if run.steps and ("search", name) not in found:
            found["search", name] = _logged(run, results, name)
    order = {row.name: i for i, row in enumerate(results.rows)}
    return tuple(sorted(found.values(), key=lambda c: (c.stage != STAGES[0], order.get(c.row, len(order)))))


def row_of(run: Trajectory, rows: Sequence[Row]) -> str:
    """The row a search led to: `joint 85%` for `joint 85% (decode=3.87ms)`; the run's own name if there is none."""
    name = run.budget_name
    return next((row.name for row in rows if row.name == name or name.startswith(f"{row.name} (")), name)


def panels(curves: Sequence[Curve]) -> list[Panel]:
    """The plots that `curves` can fill."""
    search = [name for c in curves if c.stage == "search" for name in c.values]
    budgets = list(dict.fromkeys(name.removeprefix(SLACK) for name in search if name.startswith(SLACK)))
    wanted = [
        Panel("search", "loss", "search: loss"),
        *(Panel("search", f"{SLACK}{m}", f"search: {m} budget left, %") for m in budgets),
        Panel("search", "entropy", "search: entropy of the choices"),
        *(Panel("search", f"multiplier_{m}", f"search: multiplier of {m}") for m in budgets),
        Panel("distil", "loss", "distillation: loss"),
    ]
    return [panel for panel in wanted if lines(curves, panel)]


def lines(curves: Sequence[Curve], panel: Panel) -> list[Curve]:
    return [c for c in curves if c.stage == panel.stage and panel.quantity in c.values]


def models(curves: Sequence[Curve]) -> list[str]:
    """Every model with a curve, in the order in which they get their lines."""
    return list(dict.fromkeys(c.row for c in curves))


def training(curves: Sequence[Curve], panel: Panel) -> go.Figure:
    """One quantity over the steps, a line a model; its first and last value are in the hover text of every point."""
    slack = panel.quantity.startswith(SLACK)
    figure = new_figure(230, "step", "")
    drawn = lines(curves, panel)
    last = max(max(c.steps) for c in drawn)
    figure.update_yaxes(exponentformat="power")
    figure.update_xaxes(
        range=[-0.03 * max(last, 1), 1.03 * max(last, 1)], tickformat=",d", dtick=1 if last < 8 else None
    )
    if slack:
        guide(figure, [0, max(last, 1)], [0, 0])
    for curve in drawn:
        i = models(curves).index(curve.row)
        values = [100 * v if slack else v for v in curve.values[panel.quantity]]
        figure.add_scatter(
            x=list(curve.steps),
            y=values,
            mode="lines+markers" if len(values) < SHORT else "lines",
            marker={"symbol": MARKS[i % len(MARKS)][0], "size": 8},
            line={
                "color": SHADES[i % len(SHADES)],
                "dash": DASHES[i % len(DASHES)].replace(" ", ",") or "solid",
                "width": 1.8,
            },
            hovertemplate=f"{escape(curve.row)}: %{{y:.4g}} at step %{{x}}; {_ends(values)}<extra></extra>",
            meta={"row": curve.row, "role": "curve"},
            name=escape(curve.row),
        )
    return figure


def key(curves: Sequence[Curve]) -> str:
    """Which line is which model, as HTML."""
    short = any(len(c.steps) < SHORT for c in curves)
    items = (
        f'<span class="item" data-row="{escape(name)}">{_stroke(i)} {MARKS[i % len(MARKS)][1] if short else ""} '
        f"{escape(name)}</span>"
        for i, name in enumerate(models(curves))
    )
    return f'<p class="key">{" ".join(items)}</p>'


def _ends(values: Sequence[float]) -> str:
    return f"{values[0]:.4g} → {values[-1]:.4g}".replace("-", "−")


def _stroke(i: int) -> str:
    colour, dash = SHADES[i % len(SHADES)], DASHES[i % len(DASHES)]
    path = f'<path d="M1 8H35" stroke="{colour}" stroke-width="1.8" stroke-dasharray="{dash}"/>'
    return f'<svg width="36" height="16" viewBox="0 0 36 16" aria-hidden="true">{path}</svg>'


def _logged(run: Trajectory, results: Results, name: str) -> Curve:
    limits = next((row.budget for row in results.rows if row.name == name and row.budget), None) or {"budget": 0.0}
    metric = next(iter(limits))
    values = {
        "loss": tuple(s.loss for s in run.steps),
        f"{SLACK}{metric}": tuple(1 - s.expected / s.budget for s in run.steps),
        "entropy": tuple(s.entropy for s in run.steps),
        f"multiplier_{metric}": tuple(s.multiplier for s in run.steps),
    }
    return Curve("search", name, tuple(s.step for s in run.steps), values)
