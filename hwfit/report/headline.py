"""Headline: what the run achieved in one glance, and what speaks against it."""

from __future__ import annotations

from html import escape

from hwfit.report import text
from hwfit.report.results import Results, Row
from hwfit.workload import PHASES

CLOSE = 0.05
"""Share over a budget that the spread of a measurement may excuse."""


def headline(results: Results) -> str:
    """Title, five figures of the picked row against the original, and the verdict on budgets and baselines."""
    title = f"<h1>{escape(results.model)}, fitted to {escape(str(results.machine['name']))}</h1>"
    made = f'<p class="quiet">Measured on that machine. Made {escape(results.created)} by hwfit.</p>'
    picked, original = results.picked, results.original
    if picked is None:
        return f"{title}{made}<p>No model was picked.</p>"
    tiles = "".join(_tile(*tile) for tile in _figures(picked, original))
    verdict = "".join(f"<li>{line}</li>" for line in verdicts(results, picked))
    return f'{title}{made}<div class="tiles">{tiles}</div><ul class="verdict">{verdict}</ul>'


def verdicts(results: Results, picked: Row) -> list[str]:
    """Plain sentences (HTML): budget kept or missed, what beats the pick, and how it stands to each baseline."""
    name = f"<b>{escape(picked.name)}</b>"
    lines = [
        f"{name} {_verdict(picked, key, over)}: measured {text.percent(over, True)} against it."
        for key, over in picked.over_budget.items()
    ]
    better = [escape(row.name) for row in results.rows if row.beats(picked, "decode")]
    lines.append(
        f"Both faster in decode and of lower perplexity: {', '.join(better)}."
        if better
        else "No other model of this run is both faster in decode and of lower perplexity."
    )
    for row in results.rows:
        if row.kind in ("uniform", "sequential"):
            speed = row.decode.measured / picked.decode.measured
            lines.append(
                f"Against {escape(row.name)}: {_times(speed)} in decode, "
                f"perplexity {text.significant(picked.perplexity)} against its {text.significant(row.perplexity)}."
            )
    return lines


def _verdict(row: Row, key: str, over: float) -> str:
    low = row.timing(key).low if key in PHASES else row.size_bytes
    if over <= 0:
        return f"keeps its {key} budget"
    within = low <= (row.budget or {})[key] and over <= CLOSE
    return f"meets its {key} budget within the spread of its measurement" if within else f"misses its {key} budget"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}× as fast"


def _figures(picked: Row, original: Row | None) -> list[tuple[str, str, str]]:
    """Label, figure, and the comparison with the original."""

    def faster(before: float | None, after: float, unit: str, show) -> str:
        if not before:
            return ""
        ratio, word = (before / after, "less") if before >= after else (after / before, "more")
        return f"{ratio:.1f}× {word} than {show(before)} {unit}"

    o = original
    figures = [
        (
            "decode",
            f"{text.ms(picked.decode.measured)} ms",
            faster(o and o.decode.measured, picked.decode.measured, "ms", text.ms),
        ),
        (
            "prefill",
            f"{text.ms(picked.prefill.measured)} ms",
            faster(o and o.prefill.measured, picked.prefill.measured, "ms", text.ms),
        ),
        ("size", f"{text.mb(picked.size_bytes)} MB", faster(o and o.size_bytes, picked.size_bytes, "MB", text.mb)),
        ("perplexity", text.significant(picked.perplexity), f"original {text.significant(o.perplexity)}" if o else ""),
    ]
    if picked.accuracy_mean is not None:
        before = f"original {100 * o.accuracy_mean:.1f} %" if o and o.accuracy_mean is not None else ""
        figures.append(("accuracy", f"{100 * picked.accuracy_mean:.1f} %", before))
    return figures


def _tile(label: str, figure: str, against: str) -> str:
    return f'<div class="tile"><span>{label}</span><b>{figure}</b><span>{against}</span></div>'
