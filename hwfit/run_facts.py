"""Run facts: what the run that a subnet's folder lies in knows of it, for its model card."""

from __future__ import annotations

from pathlib import Path

from hwfit.deploy.card import Facts
from hwfit.errors import HwfitError
from hwfit.files import read_object
from hwfit.report.results import FILE, Results, Row, read_results
from hwfit.search.budget import Budget
from hwfit.workload import PHASES


def facts_of(folder: Path) -> Facts:
    """Of `RUN/subnets/NAME`: from `RUN/results.json` where a finished run has it, else what the search left.

    A folder that lies in no run knows nothing. Raises `HwfitError` for a damaged results.json.
    """
    folder = folder.resolve()
    run, steps = folder.parent.parent, _distilled(folder)
    if not (run / FILE).is_file():
        return Facts(budget=_budget(run / "found" / f"{folder.name}.json"), training=steps)
    results = read_results(run)
    row = next((row for row in results.rows if row.name == folder.name), None)
    return Facts(training=steps) if row is None else _facts(results, row, steps)


def _facts(results: Results, row: Row, steps: str | None) -> Facts:
    told, w = results.provenance, results.workload
    limits = row.budget or {}
    shape = {"decode": f"one token at context {w.context}", "prefill": f"{w.prompt} tokens"}
    latency = []
    for phase in PHASES:
        t = row.timing(phase)
        predicted = "unknown" if t.predicted is None else f"{t.predicted * 1e3:.2f} ms"
        measured = f"{t.measured * 1e3:.2f} ms ({t.low * 1e3:.2f}–{t.high * 1e3:.2f})"
        latency.append((f"{phase}, {shape[phase]}", predicted, measured))
    data = told.get("training text")
    return Facts(
        budget=str(Budget(tuple(limits.items()))) if limits else "none",
        latency=tuple(latency),
        quality=_quality(row, results.original),
        device=f"{results.machine['name']} ({told.get('device', 'key unknown')})",
        table=f"{told.get('table', 'unknown')}, of the run of {results.created} with hwfit {told.get('hwfit', '?')}",
        training=f"{steps}; {data}" if steps and data else steps,
        measured_as=told.get("latency"),
    )


def _quality(row: Row, original: Row | None) -> tuple[tuple[str, str, str], ...]:
    def perplexity(r: Row | None) -> str:
        return "unknown" if r is None else f"{r.perplexity:.1f} ({r.perplexity_low:.1f}–{r.perplexity_high:.1f})"

    def score(r: Row | None, task: str) -> str:
        s = r.accuracy.get(task) if r else None
        return "unknown" if s is None else f"{s.value:.1%} ± {s.stderr:.1%}"

    tasks = [(f"{task}, {s.n} documents", score(row, task), score(original, task)) for task, s in row.accuracy.items()]
    return (("perplexity on held-out text (95 %)", perplexity(row), perplexity(original)), *tasks)


def _budget(path: Path) -> str | None:
    """Of a search that has not been reported on."""
    limits = read_object(path).get("budget")
    try:
        return str(Budget(tuple((str(m), float(v)) for m, v in limits))) if limits else None
    except (TypeError, ValueError, KeyError, ArithmeticError, HwfitError):
        return None


def _distilled(folder: Path) -> str | None:
    losses = read_object(folder / "distilled.json").get("losses")
    if not isinstance(losses, list):
        return None
    return f"{len(losses)} distillation steps from the original" if losses else "none after the cut"
