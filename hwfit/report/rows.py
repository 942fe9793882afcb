"""Rows: the page's table of all models, whose names select them."""

from __future__ import annotations

from html import escape

from hwfit.report.parts import note, select_button
from hwfit.report.results import Results, Row
from hwfit.report.table import columns, tasks


def rows_table(results: Results) -> str:
    """Every model with its figures, numbered as on the plots."""
    chosen = columns(results)

    def side(i: int) -> str:
        return "" if chosen[i].number else ' class="left"'

    def line(number: int, row: Row) -> str:
        cells = [escape(c.cell(row)) for c in chosen]
        first = f'<th scope="row">{select_button(row.name, f"{number} {cells[0]}")}</th>'
        mark = ' class="picked"' if row.picked else ""
        rest = "".join(f"<td{side(i)}>{cell}</td>" for i, cell in enumerate(cells) if i)
        return f'<tr{mark} data-row="{escape(row.name)}">{first}{rest}</tr>'

    head = "".join(f'<th scope="col"{side(i)}>{escape(c.title)}</th>' for i, c in enumerate(chosen))
    body = "".join(line(i, row) for i, row in enumerate(results.rows, 1))
    counts = {
        task: max(row.accuracy[task].n for row in results.rows if task in row.accuracy) for task in tasks(results)
    }
    sample = ", ".join(f"{n} documents of {escape(task)}" for task, n in counts.items())
    about = f"Accuracy is over {sample}; ± is one standard error. " if sample else ""
    same = 'The same as <a href="table.csv">table.csv</a> (with every interval) and <a href="table.md">table.md</a>.'
    table = f'<table class="rows"><tr>{head}</tr>{body}</table>'
    return f'{note(about + same)}<div class="scroll" tabindex="0" role="group" aria-label="All models">{table}</div>'
