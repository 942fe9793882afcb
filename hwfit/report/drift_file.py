"""Drift file: what `hwfit validate --out drift.json` found out about a model of a run, read and checked."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from hwfit.errors import HwfitError, raise_all
from hwfit.evaluate.divergence import MOST
from hwfit.evaluate.drift import Drift
from hwfit.evaluate.drift_file import FILE
from hwfit.files import parse_json
from hwfit.report.results import Results
from hwfit.report.typed import decode


def read_drifts(run_dir: Path, results: Results) -> dict[str, Drift]:
    """Row -> `subnets/ROW/drift.json` where there is one. Raises `HwfitError` listing everything wrong with them."""
    found, problems = {}, []
    for row in results.rows:
        path = run_dir / "subnets" / row.name / FILE
        if Path(row.name).name == row.name and path.is_file():
            try:
                found[row.name] = read_drift(path)
            except HwfitError as error:
                problems += error.problems
    raise_all(problems)
    return found


def read_drift(path: Path) -> Drift:
    """One file. Raises `HwfitError` listing everything wrong with it."""
    again = "delete it or run `hwfit validate` again with --out to write it anew"
    try:
        raw = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HwfitError(f"{path}: cannot be read as JSON ({error}); {again}") from error
    problems: list[str] = []
    drift = decode(Drift, raw, "drift", problems)
    problems += _impossible(drift) if drift is not None else []
    raise_all([f"{path}: {problem}; {again}" for problem in problems])
    assert drift is not None
    return drift


def _impossible(drift: Drift) -> list[str]:
    """What no single field shows: shares of nothing, perplexities and divergences that cannot be drawn."""
    problems = [
        f"drift.flips.{task} counts {f.lost} lost, {f.won} won and {f.swapped} swapped of {f.n} documents"
        for task, f in drift.flips.items()
        if f.n < 1 or min(f.lost, f.won, f.swapped) < 0 or f.lost + f.won + f.swapped > f.n
    ]
    for group in ("domains", "languages", "long"):
        problems += [
            f"drift.{group}.{name} has perplexities {d.before:g} and {d.after:g}, divergences {d.kl:g} and "
            f"{d.kl_p99:g}; perplexities are from 1, divergences from 0"
            for name, d in getattr(drift, group).items()
            if any(p <= 0.99 for p in (d.before, d.after)) or any(k <= -1e-3 for k in (d.kl, d.kl_p99))
        ]
    problems += [
        f"drift.limits.{name} is {limit:g}; it must be from 0 to {MOST:g}"
        for name, limit in asdict(drift.limits).items()
        if not 0 <= limit < MOST
    ]
    r = drift.refusals
    if r and not (r.unsafe > 0 and r.benign > 0):
        problems.append(f"drift.refusals counts {r.unsafe} unsafe and {r.benign} benign prompts; each must be above 0")
    return problems
