"""Page: one self-contained `report.html` (and the same figures as PNG, Markdown and CSV) of a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from hwfit.files import replacing
from hwfit.report import text
from hwfit.report.bars import layer_bars, stage_bars
from hwfit.report.blocks import block_maps
from hwfit.report.figures import DASHES, PANELS, SHADES, predictions, trajectories
from hwfit.report.headline import headline
from hwfit.report.pareto import pareto
from hwfit.report.plots import caption, pareto_png
from hwfit.report.results import KINDS, Results, Row, read_results
from hwfit.report.style import CSS, SCRIPT
from hwfit.report.table import columns, csv_text, markdown, tasks
from hwfit.report.text import LOOKS
from hwfit.workload import PHASES

PAGE = "report.html"


def write_report(run_dir: Path) -> Path:
    """Writes `report.html`, `pareto.png`, `table.md` and `table.csv` beside `results.json`; returns the page's path.

    Raises `HwfitError` listing everything wrong with `results.json`, before anything is written.
    """
    results = read_results(run_dir)
    files = {
        "pareto.png": pareto_png(results),
        "table.md": markdown(results).encode(),
        "table.csv": csv_text(results).encode(),
        PAGE: page(results).encode(),
    }
    for name, content in files.items():
        with replacing(run_dir / name) as temporary:
            temporary.write_bytes(content)
    return run_dir / PAGE


def page(results: Results) -> str:
    """The whole page as HTML; the same results give the same page. Sections without data are left out."""
    sections = {
        "Trade-off in decode": _plot("pareto-decode", pareto(results, "decode"), _reading(results) + _key(results)),
        "Trade-off in prefill": _plot("pareto-prefill", pareto(results, "prefill"), _key(results)),
        "All models": _table(results),
        "Predicted against measured": _predictions(results),
        "What is kept, at how many bits": block_maps(results),
        "Where the time goes": _with(_NOTE_LAYERS, layer_bars(results)),
        "The search": _search(results),
        "Stages of the run": stage_bars(results),
        "Provenance": _facts({**results.machine, **results.provenance}),
    }
    shown = {title: html for title, html in sections.items() if html}
    links = " ".join(f'<a href="#{_anchor(title)}">{title}</a>' for title in shown)
    body = "".join(f'<section><h2 id="{_anchor(title)}">{title}</h2>{html}</section>' for title, html in shown.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>hwfit: {escape(results.model)}</title><style>{CSS}</style>"
        f"<script>{get_plotlyjs()}</script></head><body>"
        f"{headline(results)}<nav>{links}</nav>{body}<script>{SCRIPT}</script></body></html>\n"
    )


_NOTE_LAYERS = (
    "The latency model's split of each model's predicted time. Bars show shares; the time itself is on the right."
)


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-").replace(",", "")


def _with(note: str, html: str) -> str:
    return f'<p class="quiet">{note}</p>{html}' if html else ""


def _plot(name: str, figure: go.Figure, note: str = "") -> str:
    """A place for a figure and its data, which `SCRIPT` draws once the page's widths are known."""
    data = str(figure.to_json()).replace("<", "\\u003c")
    return f'{note}<div class="plot" id="{name}"><script type="application/json">{data}</script></div>'


def _reading(results: Results) -> str:
    ring = " The ring marks the pick." if results.picked else ""
    return (
        f'<p class="quiet">{escape(caption(results))}. Filled marks are measured, with their intervals; hollow marks '
        f"are predicted; dashed lines are budgets.{ring} Both scales are logarithmic; lower left is better. Point at a "
        "mark for its figures, drag to zoom, double-click to zoom out.</p>"
    )


def _key(results: Results) -> str:
    """Which mark is which kind and, on a narrow page, which number is which row."""
    looks = [LOOKS[kind] for kind in KINDS if results.of_kind(kind)]
    marks = " ".join(f'<span class="item">{_GLYPHS[look.symbol](look.colour)} {look.title}</span>' for look in looks)
    numbers = " ".join(
        f'<span class="item"><b>{i + 1}</b> {escape(row.name)}</span>' for i, row in enumerate(results.rows)
    )
    return f'<p class="key">{marks}</p><p class="key numbers">{numbers}</p>'


def _svg(shape: str, width: int = 16) -> str:
    return f'<svg width="{width}" height="16" viewBox="0 0 {width} 16" aria-hidden="true">{shape}</svg>'


_STAR = "8,0.5 9.9,5.8 15.5,5.8 11,9.2 12.7,14.6 8,11.3 3.3,14.6 5,9.2 0.5,5.8 6.1,5.8"
_GLYPHS = {
    "star": lambda colour: _svg(f'<polygon points="{_STAR}" fill="{colour}"/>'),
    "square": lambda colour: _svg(f'<rect x="3" y="3" width="10" height="10" fill="{colour}"/>'),
    "triangle-up": lambda colour: _svg(f'<polygon points="8,2 14,13 2,13" fill="{colour}"/>'),
    "circle": lambda colour: _svg(f'<circle cx="8" cy="8" r="5.5" fill="{colour}"/>'),
}
_STROKES = {
    "solid": "",
    "dash": "7 4",
    "dot": "2 3",
    "dashdot": "7 3 2 3",
    "longdash": "11 4",
    "longdashdot": "11 3 2 3",
}


def _table(results: Results) -> str:
    chosen = columns(results)

    def side(i: int) -> str:
        return "" if chosen[i].number else ' class="left"'

    def line(number: int, row: Row) -> str:
        cells = [escape(c.cell(row)) for c in chosen]
        cells[0] = f"{number} {cells[0]}"
        mark = ' class="picked"' if row.picked else ""
        return f"<tr{mark}>" + "".join(f"<td{side(i)}>{cell}</td>" for i, cell in enumerate(cells)) + "</tr>"

    head = "".join(f"<th{side(i)}>{escape(c.title)}</th>" for i, c in enumerate(chosen))
    body = "".join(line(i + 1, row) for i, row in enumerate(results.rows))
    counts = {
        task: max(row.accuracy[task].n for row in results.rows if task in row.accuracy) for task in tasks(results)
    }
    sample = ", ".join(f"{n} documents of {escape(task)}" for task, n in counts.items())
    note = f"Accuracy is over {sample}; ± is one standard error." if sample else ""
    files = 'The same as <a href="table.csv">table.csv</a> (with every interval) and <a href="table.md">table.md</a>.'
    table = f'<div class="scroll"><table class="rows"><tr>{head}</tr>{body}</table></div>'
    return f'<p class="quiet">{note} {files}</p>{table}'


def _predictions(results: Results) -> str:
    halves = []
    for phase in PHASES:
        error = results.mean_error(phase)
        if error is not None:
            title = f"<h3>{phase}: mean absolute error {text.percent(error)}</h3>"
            halves.append(f"<div>{title}{_plot(f'predicted-{phase}', predictions(results, phase))}</div>")
    note = "On the line, the prediction was right; the grey band is ± 8 %."
    return _with(note, f'<div class="halves">{"".join(halves)}</div>' if halves else "")


def _search(results: Results) -> str:
    if not any(run.steps for run in results.search):
        return ""
    key = " ".join(
        f'<span class="item">{_svg(_stroke(i), 36)} {escape(run.budget_name)}</span>'
        for i, run in enumerate(results.search)
    )
    panels = "".join(
        f"<div>{_plot(f'search-{i}', trajectories(results, panel))}</div>" for i, panel in enumerate(PANELS)
    )
    return f'<p class="key">{key}</p><div class="halves">{panels}</div>'


def _stroke(i: int) -> str:
    colour, dash = SHADES[i % len(SHADES)], _STROKES[DASHES[i % len(DASHES)]]
    return f'<path d="M1 8H35" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'


def _facts(facts: Mapping[str, Any]) -> str:
    pairs = "".join(f"<dt>{escape(str(key))}</dt><dd>{escape(_words(value))}</dd>" for key, value in facts.items())
    return f"<dl>{pairs}</dl>"


def _words(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_words(v)}" for k, v in value.items()) or "none"
    return "not known" if value is None else str(value)
