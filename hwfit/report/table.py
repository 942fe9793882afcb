"""Table: the rows of a run for a terminal, for Markdown, for HTML and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from hwfit.report import text
from hwfit.report.results import Results, Row
from hwfit.search.budget import METRICS
from hwfit.workload import PHASES, PhaseName


@dataclass(frozen=True)
class Column:
    """One column for people: its title with the unit, and the cell of a row."""

    title: str
    cell: Callable[[Row], str]
    number: bool = True


def _predicted(phase: PhaseName) -> Callable[[Row], str]:
    return lambda row: text.ms(p) if (p := row.timing(phase).predicted) is not None else "–"


def _measured(phase: PhaseName) -> Callable[[Row], str]:
    return lambda row: text.ms(row.timing(phase).measured)


def _error(phase: PhaseName) -> Callable[[Row], str]:
    return lambda row: text.percent(e, signed=True) if (e := row.timing(phase).error) is not None else "–"


def _over(row: Row) -> str:
    return ", ".join(text.percent(over, signed=True) for over in row.over_budget.values()) or "–"


def _accuracy(row: Row) -> str:
    if row.accuracy_mean is None:
        return "–"
    spread = "" if row.accuracy_stderr is None else f" ± {100 * row.accuracy_stderr:.1f}"
    return f"{100 * row.accuracy_mean:.1f}{spread}"


def _task(task: str) -> Callable[[Row], str]:
    return lambda row: f"{100 * row.accuracy[task].value:.0f}" if task in row.accuracy else "–"


def tasks(results: Results) -> list[str]:
    """Names of the benchmarks any row was scored on, in order of appearance."""
    return list(dict.fromkeys(task for row in results.rows for task in row.accuracy))


def columns(results: Results) -> list[Column]:
    """The columns of the page's and the Markdown table, one a benchmark among them."""
    phases = [
        Column(f"{phase} {title}", make(phase))
        for phase in PHASES
        for title, make in (("predicted ms", _predicted), ("measured ms", _measured), ("error", _error))
    ]
    budget = [
        Column("budget", lambda row: text.budget(row) or "–", number=False),
        Column("over budget", _over),
    ]
    quality = [
        Column("size MB", lambda row: text.mb(row.size_bytes)),
        Column("perplexity", lambda row: text.significant(row.perplexity)),
        Column("accuracy %", _accuracy),
        *(Column(f"{task} %", _task(task)) for task in tasks(results)),
        Column("bits", lambda row: f"{row.weight_bits:.1f}"),
    ]
    name = Column("model", lambda row: row.name + (" ◄\u00a0picked" if row.picked else ""), number=False)
    return [name, *budget, *phases, *quality]


def _arrow(phase: PhaseName) -> Callable[[Row], str]:
    return lambda row: f"{_predicted(phase)(row)}→{_measured(phase)(row)}"


def _short(cell: Callable[[Row], str]) -> Callable[[Row], str]:
    return lambda row: cell(row).replace(" ", "")


TERMINAL = (
    Column("model", lambda row: ("► " if row.picked else "") + row.name, number=False),
    Column("decode ms\npred.→meas.", _arrow("decode")),
    Column("error", _short(_error("decode"))),
    Column("over\nbudget", _short(_over)),
    Column("prefill ms\npred.→meas.", _arrow("prefill")),
    Column("error", _short(_error("prefill"))),
    Column("MB", lambda row: text.mb(row.size_bytes)),
    Column("perpl.", lambda row: text.significant(row.perplexity)),
    Column("acc.\n%", lambda row: "–" if row.accuracy_mean is None else f"{100 * row.accuracy_mean:.1f}"),
)


def rich_table(results: Results) -> Table:
    """The table for a terminal of 80 columns or more; the picked row is bold and has an arrow."""
    title = f"{results.model} on {results.machine['name']}"
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 0), collapse_padding=True)
    for column in TERMINAL:
        table.add_column(column.title, justify="right" if column.number else "left", no_wrap=column.number)
    for row in results.rows:
        table.add_row(*(Text(c.cell(row)) for c in TERMINAL), style="bold" if row.picked else None)
    return table


def markdown(results: Results) -> str:
    """The same as a Markdown table; vertical bars in names are escaped."""
    chosen = [*columns(results), Column("shape", text.widths, number=False)]
    lines = [
        [c.title for c in chosen],
        ["---:" if c.number else "---" for c in chosen],
        *([c.cell(row).replace("|", "\\|") for c in chosen] for row in results.rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def csv_text(results: Results) -> str:
    """Every number of every row at full precision (seconds, bytes, fractions), one line a row."""
    flat = [_flat(row, tasks(results)) for row in results.rows]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def _flat(row: Row, names: list[str]) -> dict[str, Any]:
    times = {
        f"{phase}_{key}_s" if key != "error" else f"{phase}_error": getattr(row.timing(phase), key)
        for phase in PHASES
        for key in ("predicted", "measured", "low", "high", "raw", "error")
    }
    limits = row.budget or {}
    scores = {
        f"{task}_{key}": getattr(row.accuracy[task], key) if task in row.accuracy else None
        for task in names
        for key in ("value", "stderr", "n")
    }
    plain = ("size_bytes", "perplexity", "perplexity_low", "perplexity_high", "accuracy_mean", "accuracy_stderr")
    return {
        "name": row.name,
        "kind": row.kind,
        "picked": row.picked,
        **{f"budget_{key}": limits.get(key) for key in METRICS},
        **times,
        **{key: getattr(row, key) for key in plain},
        **scores,
        "weight_bits": row.weight_bits,
        "blocks": len(row.subnet.blocks),
        "hidden": row.subnet.hidden,
        "heads": row.subnet.heads,
        "head_size": row.subnet.head_size,
        "mlp_mean": sum(row.subnet.mlp) / len(row.subnet.mlp),
    }
