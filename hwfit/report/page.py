"""Page: one self-contained `report.html` (and the same figures as PNG, Markdown and CSV) of a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from plotly.offline import get_plotlyjs

from hwfit.errors import HwfitError, raise_all
from hwfit.evaluate.drift import Drift
from hwfit.files import replacing
from hwfit.report import sections
from hwfit.report.drift_file import read_drifts
from hwfit.report.filters import filters
from hwfit.report.headline import headline
from hwfit.report.plots import pareto_png
from hwfit.report.provenance import provenance
from hwfit.report.results import Results, read_results
from hwfit.report.rows import rows_table
from hwfit.report.table import csv_text, markdown
from hwfit.report.training import Curve, read_curves

PAGE = "report.html"


def write_report(run_dir: Path) -> Path:
    """Writes `report.html`, `pareto.png`, `table.md` and `table.csv` beside `results.json`; returns the page's path.

    `logs/*.csv` and `subnets/*/drift.json` are shown where they are there. Raises `HwfitError` listing everything wrong
    with any of these, before anything is written.
    """
    results = read_results(run_dir)
    problems: list[str] = []
    curves: tuple[Curve, ...] = ()
    drifts: dict[str, Drift] = {}
    try:
        curves = read_curves(run_dir, results)
    except HwfitError as error:
        problems += error.problems
    try:
        drifts = read_drifts(run_dir, results)
    except HwfitError as error:
        problems += error.problems
    raise_all(problems)
    made = {
        "pareto.png": pareto_png(results),
        "table.md": markdown(results).encode(),
        "table.csv": csv_text(results).encode(),
        PAGE: page(results, curves, drifts).encode(),
    }
    for name, content in made.items():
        with replacing(run_dir / name) as temporary:
            temporary.write_bytes(content)
    return run_dir / PAGE


def page(results: Results, curves: Sequence[Curve] = (), drifts: Mapping[str, Drift] | None = None) -> str:
    """The whole page as HTML; the same results give the same page. Sections without data are left out."""
    shown = {
        "Trade-off in decode": sections.trade_off(results, "decode"),
        "Trade-off in prefill": sections.trade_off(results, "prefill"),
        "All models": rows_table(results),
        "Predicted against measured": sections.predicted_measured(results),
        "What is kept, at how many bits": sections.kept_blocks(results),
        "Where the time goes": sections.time_by_layer(results),
        "Over training": sections.over_training(curves),
        "Drift from the original": sections.drift(results, drifts or {}),
        "Stages of the run": sections.stages(results),
        "Provenance": f"<h3>Machine</h3>{provenance(results.machine)}<h3>Run</h3>{provenance(results.provenance)}",
    }
    shown = {title: html for title, html in shown.items() if html}
    links = " ".join(f'<a href="#{_anchor(title)}">{title}</a>' for title in shown)
    body = "".join(f'<section><h2 id="{_anchor(title)}">{title}</h2>{html}</section>' for title, html in shown.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>hwfit: {escape(results.model)} on {escape(str(results.machine['name']))}</title>"
        f"<style>{_asset('page.css')}</style>"
        f"<script>{get_plotlyjs()}</script></head><body><noscript><p>The figures need JavaScript; the table, and "
        f"pareto.png beside this page, do not.</p></noscript><main>{headline(results)}"
        f'<nav aria-label="Sections">{links}</nav>{filters(results)}{body}</main>'
        f"<script>{_asset('page.js')}</script></body></html>\n"
    )


def _asset(name: str) -> str:
    return files("hwfit.report").joinpath(name).read_text(encoding="utf-8")


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-").replace(",", "")
