"""Filters: which models the page shows, by kind and by whether they keep their budgets, and which one is selected."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from hwfit.report import text
from hwfit.report.parts import data, glyph
from hwfit.report.results import KINDS, Results, Row
from hwfit.report.text import LOOKS

State = Literal["kept", "missed", "none"]
STATES: dict[State, str] = {"kept": "budget kept", "missed": "budget missed", "none": "no budget"}


def budget_state(row: Row) -> State:
    """Whether all the limits that the run can check are kept, as measured."""
    over = row.over_budget.values()
    return "none" if not over else "kept" if max(over) <= 0 else "missed"


def filters(results: Results) -> str:
    """A form of check boxes (none if all rows are alike), and what `page.js` has to know of the rows."""
    kinds = Counter(row.kind for row in results.rows)
    states = Counter(budget_state(row) for row in results.rows)
    groups = [
        ("kind", "Kind", [(k, f"{glyph(k)} {LOOKS[k].title}", kinds[k]) for k in KINDS if kinds[k]]),
        ("state", "Budget, as measured", [(s, words, states[s]) for s, words in STATES.items() if states[s]]),
    ]
    fields = "".join(_field(name, title, boxes) for name, title, boxes in groups if len(boxes) > 1)
    count = f'<span id="count" role="status">{len(results.rows)} of {len(results.rows)} models shown</span>'
    form = f'<form id="filter" aria-label="Which models are shown">{fields}{count}</form>' if fields else ""
    models = [
        {"name": row.name, "kind": row.kind, "state": budget_state(row), "words": in_words(row)} for row in results.rows
    ]
    return form + data(models, "models") + _STRIP


_STRIP = (
    '<aside class="strip" hidden><p role="status"></p><span><button type="button" data-step="-1" '
    'aria-label="Previous model">←</button><button type="button" data-step="1" aria-label="Next model">→</button>'
    '<button type="button" data-clear aria-label="Clear the selection">✕</button></span></aside>'
)


def in_words(row: Row) -> str:
    """A row in one line."""
    accuracy = "" if row.accuracy_mean is None else f", accuracy {100 * row.accuracy_mean:.1f} %"
    over = ", ".join(f"{key} {text.percent(over, True)} against its limit" for key, over in row.over_budget.items())
    state = f"; {STATES[budget_state(row)]}: {over}" if over else ""
    return (
        f"{LOOKS[row.kind].title}; decode {text.ms(row.decode.measured)} ms, prefill {text.ms(row.prefill.measured)} "
        f"ms, {text.mb(row.size_bytes)} MB, perplexity {text.significant(row.perplexity)}{accuracy}{state}"
    )


def _field(name: str, title: str, boxes: list[tuple[str, str, int]]) -> str:
    items = "".join(
        f'<label><input type="checkbox" name="{name}" value="{value}" checked> {words} ({count})</label>'
        for value, words, count in boxes
    )
    return f"<fieldset><legend>{title}</legend>{items}</fieldset>"
