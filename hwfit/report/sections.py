"""Sections: the parts of the page, each as HTML; empty where the run has nothing to show in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from hwfit.evaluate.drift import Drift
from hwfit.report import blocks, drift_view, layers, text, training
from hwfit.report.pareto import named, pareto
from hwfit.report.parts import glyph, note, plot, select_button
from hwfit.report.plots import caption
from hwfit.report.predictions import BAND, predictions
from hwfit.report.results import KINDS, Results
from hwfit.report.text import LOOKS
from hwfit.report.training import Curve
from hwfit.workload import PHASES, PhaseName


def _reading(results: Results) -> str:
    ring = " The ring marks the pick." if results.picked else ""
    return note(
        f"{escape(caption(results))}. Filled marks are measured, with their intervals; hollow marks are predicted; "
        f"dashed lines are budgets.{ring} Both scales are logarithmic; lower left is better. Point at a mark for its "
        "figures; click or tap it (or focus the plot and press ← or →) to select its model in every section, Esc to "
        "clear that. Drag to zoom, double-click to zoom out."
    )


def _key(results: Results) -> str:
    """Which mark is which kind and, on a narrow page, which number is which row."""
    marks = " ".join(
        f'<span class="item">{glyph(kind)} {LOOKS[kind].title}</span>' for kind in KINDS if results.of_kind(kind)
    )
    numbers = " ".join(
        f'<span class="item" data-row="{escape(row.name)}"><b>{i}</b> {escape(row.name)}</span>'
        for i, row in enumerate(results.rows, 1)
    )
    return f'<p class="key">{marks}</p><p class="key{" numbers" if named(results) else ""}">{numbers}</p>'


def trade_off(results: Results, phase: PhaseName) -> str:
    """The interactive front, with how to read it where it stands first."""
    head = (_reading(results) if phase == PHASES[0] else "") + _key(results)
    return head + plot(f"pareto-{phase}", f"{phase} latency against perplexity", pareto(results, phase), head="")


def predicted_measured(results: Results) -> str:
    halves = []
    for phase in PHASES:
        error = results.mean_error(phase)
        if error is not None:
            title = f"mean absolute error {text.percent(error)}"
            whole = f"{phase}, predicted against measured: {title}"
            head = f"<h3>{phase}: {title}</h3>"
            halves.append(plot(f"predicted-{phase}", whole, predictions(results, phase), head=head))
    words = (
        f"On the line, the prediction was right; the grey band is ± {100 * BAND:g} %. Numbers are those of the table."
    )
    return f'{note(words)}<div class="halves">{"".join(halves)}</div>' if halves else ""


def kept_blocks(results: Results) -> str:
    rows = blocks.searched(results)
    if not rows:
        return ""
    maps = "".join(
        plot(
            f"blocks-{i}",
            f"{row.name}: what it keeps of each block",
            blocks.block_map(results, row),
            row.name,
            f"{select_button(row.name, escape(row.name))} "
            f'<span class="quiet">{escape(blocks.kept_words(results, row))}</span>',
        )
        for i, row in enumerate(rows)
    )
    rest = [row for row in results.rows if row not in rows]
    words = "; ".join(f"{escape(row.name)} ({escape(text.widths(row))})" for row in rest)
    return f'{blocks.key(results)}<div class="maps">{maps}</div>' + (
        note(f"Not drawn, as all their blocks are alike: {words}.") if rest else ""
    )


def time_by_layer(results: Results) -> str:
    found = [(phase, layers.layer_bars(results, phase)) for phase in PHASES]
    halves = "".join(
        plot(f"layers-{phase}", f"{phase}: time by kind of layer", f, head=f"<h3>{phase}</h3>")
        for phase, f in found
        if f
    )
    words = (
        "The latency model’s split of each model’s predicted time. Bars show shares; the time itself is on the right."
    )
    return (
        f'{note(words)}{layers.key(results)}<div class="halves">{halves}</div>{layers.exact(results)}' if halves else ""
    )


def over_training(curves: Sequence[Curve]) -> str:
    if not curves:
        return ""
    panels = training.panels(curves)
    plots = "".join(
        plot(f"training-{i}", panel.title, training.training(curves, panel)) for i, panel in enumerate(panels)
    )
    words = "A budget’s slack is the share of it that the expected cost leaves; below 0 the architecture is over it."
    told = note(words) if any(panel.quantity.startswith(training.SLACK) for panel in panels) else ""
    return f'{told}{training.key(curves)}<div class="halves">{plots}</div>'


def drift(results: Results, drifts: Mapping[str, Drift]) -> str:
    if not drifts:
        name = escape((results.picked or results.rows[-1]).name)
        command = (
            f"hwfit validate ORIGINAL &quot;RUN/subnets/{name}&quot; --out &quot;RUN/subnets/{name}/drift.json&quot;"
        )
        return note(
            f"Not measured in this run. <code>{command}</code> compares a model’s answers and predictions with the "
            "original’s; <code>hwfit report RUN</code> then shows them here."
        )
    parts = []
    for i, (name, drift) in enumerate(drifts.items()):
        plots = ""
        if drift_view.has_predictions(drift):
            plots += plot(
                f"drift-{i}", f"{name}: drift of its predictions", drift_view.prediction_drift(drift), head=""
            )
        if drift.flips:
            plots += plot(f"flips-{i}", f"{name}: changed answers", drift_view.flip_drift(drift), head="")
        words = f"{select_button(name, escape(name))}{drift_view.drift_words(drift)}"
        parts.append(f'<div class="drift" data-row="{escape(name)}">{words}<div class="halves">{plots}</div></div>')
    return f"{drift_view.key()}{''.join(parts)}{drift_view.unproven()}"


def stages(results: Results) -> str:
    if not results.stages:
        return ""
    total = text.duration(sum(stage.seconds for stage in results.stages))
    return plot(
        "stages", f"stages of the run, {total} in total", layers.stage_bars(results), head=note(f"{total} in total")
    )
