"""Report: measured latency and quality of each method, and paired intervals of joint minus each of the others."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.common import provenance, publish
from benchmarks.joint_vs_sequential.evidence import Judged, difference, ranking, speedup
from benchmarks.joint_vs_sequential.measure import REFERENCES, quality_name
from benchmarks.joint_vs_sequential.plan import Folder, Job, Plan, read_json, subnet_of
from hwfit.files import write_text
from hwfit.search.budget import Budget
from hwfit.search.methods import METHODS
from hwfit.workload import PHASES

RESULTS = Path(__file__).parents[1] / "results" / "joint_vs_sequential.json"


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where all results are kept")


@dataclass(frozen=True)
class Cell:
    """One goal and budget: what each method has in it by seed, and why it has nothing."""

    goal: str
    share: int
    methods: dict[str, dict[int, Judged]]
    missing: dict[str, str]

    @property
    def name(self) -> str:
        return f"{self.goal}.b{self.share}"


def run(folder: Folder, options: Namespace) -> int:
    plan = folder.plan()
    cells = _cells(folder, plan)
    figures = _figures(cells)
    known = read_json(folder.measured(REFERENCES), "measure")
    table = Table(
        "cell", "method", "ms", "perplexity", "accuracy %", "joint minus it", "distilled from", title=plan.model
    )
    for name, row in known.items():
        one = _judged(folder, row, 0)
        table.add_row("", name, " / ".join(f"{row['measured'][p]['p10'] * 1e3:.2f}" for p in PHASES), *_told(one))
        figures |= {f"{name.replace(' ', '_')}.{k}": v for k, v in _means({0: one}).items()} if one else {}
    for cell in cells:
        budget = f"{cell.name} ({Budget(tuple(plan.limits[cell.goal][cell.share].items()))})"
        for method, by_seed in cell.methods.items():
            means = _means(by_seed)
            minus = f"{cell.name}.joint_minus_{method}"
            told = (
                f"{figures[f'{minus}.points']:+.1f} ({figures[f'{minus}.low']:+.1f} to {figures[f'{minus}.high']:+.1f})"
                if f"{minus}.points" in figures
                else ""
            )
            numbers = (f"{means['seconds'] * 1e3:.2f}", f"{means['ppl']:.2f}", f"{means['points']:.1f}")
            table.add_row(budget, method, *numbers, told, f"{means['loss']:.3f} nats")
            budget = ""
        for method, reason in cell.missing.items():
            table.add_row("", method, "–", "–", "–", reason[:60], "")
    Console(width=160).print(table)
    rows = [
        {"cell": c.name, "method": m, "seed": s, **_plain(j)}
        for c in cells
        for m, by_seed in c.methods.items()
        for s, j in by_seed.items()
    ]
    missing = {c.name: c.missing for c in cells if c.missing}
    body = {"plan": asdict(plan), "figures": figures, "rows": rows, "missing": missing, "provenance": provenance()}
    write_text(options.results, json.dumps(body, indent=1))
    publish("joint_vs_sequential", figures, options.json)
    return 0


def _cells(folder: Folder, plan: Plan) -> list[Cell]:
    """All cells that were measured, with those of their subnets that were judged."""
    out: dict[str, Cell] = {}
    for job in plan.jobs():
        if not folder.measured(job.cell).exists():
            continue
        cell = out.setdefault(job.cell, Cell(job.goal, job.share, {}, {}))
        row = read_json(folder.measured(job.cell), "measure").get(job.name)
        if row is None:
            continue
        if "infeasible" in row:
            cell.missing[job.method] = row["infeasible"]
        elif judged := _judged(folder, row, job.seed, job):
            cell.methods.setdefault(job.method, {})[job.seed] = judged
    return list(out.values())


def _judged(folder: Folder, row: dict, seed: int, job: Job | None = None) -> Judged | None:
    subnet = subnet_of(row["subnet"])
    path = folder.quality(quality_name(subnet, seed))
    if not path.exists():
        return None
    raw = read_json(path, "distil")
    phase = job.phase if job else "decode"
    seconds = row["measured"][phase]["p10"]
    return Judged.of(seconds, raw["rows"], raw["correct"], row.get("loss", 0.0), row.get("held", True), row["subnet"])


def _figures(cells: list[Cell]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for cell in cells:
        for method, by_seed in cell.methods.items():
            figures |= {f"{cell.name}.{method}.{name}": value for name, value in _means(by_seed).items()}
        ours = cell.methods.get("joint", {})
        for method in METHODS:
            theirs = cell.methods.get(method, {})
            if method != "joint" and ours.keys() & theirs.keys():
                found = difference(ours, theirs)
                figures |= {f"{cell.name}.joint_minus_{method}.{name}": value for name, value in found.items()}
    for goal in dict.fromkeys(cell.goal for cell in cells):
        fronts = {m: [c.methods[m] for c in cells if c.goal == goal and m in c.methods] for m in METHODS}
        subnets = {(s, json.dumps(j.subnet)): j for front in fronts.values() for by in front for s, j in by.items()}
        if len(subnets) > 2:
            figures[f"ranking.{goal}.spearman"] = ranking(list(subnets.values()))
        for method in METHODS:
            if method != "joint" and (found := speedup(fronts["joint"], fronts[method])):
                figures |= {f"speedup_at_equal_quality.{goal}.{method}{name}": v for name, v in found.items()}
    return figures


def _means(by_seed: dict[int, Judged]) -> dict[str, float]:
    count = len(by_seed)
    return {name: sum(getattr(j, name) for j in by_seed.values()) / count for name in ("seconds", "points", "loss")} | {
        "ppl": Judged.perplexity(by_seed.values()),
        "held": sum(j.held for j in by_seed.values()) / count,
    }


def _told(one: Judged | None) -> tuple[str, ...]:
    return (f"{Judged.perplexity([one]):.2f}", f"{one.points:.1f}") if one else ("not judged", "")


def _plain(judged: Judged) -> dict:
    return {
        "seconds": judged.seconds,
        "ppl": Judged.perplexity([judged]),
        "points": judged.points,
        "tasks": {task: float(right.mean()) for task, right in judged.correct.items()},
        "loss": judged.loss,
        "held": judged.held,
        "subnet": judged.subnet,
    }
