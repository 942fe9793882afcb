"""Verdict: which contender won on a table's cells, how far off it was there, and where that is kept.

Kept as JSON beside the table's parts, and for published tables, whose cells are everyone's, in `data/contests` (made by
`benchmarks.contests`). A verdict counts for the very cells that it was reached on; others are judged anew.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from hwfit.files import is_number, parse_json, write_text
from hwfit.latency_models.cells import Cells
from hwfit.latency_models.contenders import CONTENDERS
from hwfit.latency_models.contest import HeldOut
from hwfit.lut_store.shipped import shipped_data

FOLDER = "models"
FORMAT = 1


@dataclass(frozen=True)
class Verdict:
    """Who won on a precision, how far off it was on held-out shapes, and its log half widths by regime."""

    contender: str
    median: float
    within10: float
    half_widths: dict[str, float]

    @classmethod
    def of(cls, held: HeldOut) -> Verdict:
        return cls(held.contender, held.median, held.within(0.1), held.quantiles())


def write_verdict(folder: Path, device: str, cells: Cells, verdict: Verdict) -> None:
    raw = {"format": FORMAT, "cells": _digest(cells), **asdict(verdict)}
    write_text(_path(folder, device, cells), json.dumps(raw, indent=1))


def find_verdict(table: Path, device: str, cells: Cells) -> Verdict | None:
    """An earlier one on the same cells: kept beside the table, or shipped; None if there is none that is readable."""
    return read_verdict(table / FOLDER, device, cells) or read_verdict(shipped_contests(), device, cells)


def read_verdict(folder: Path, device: str, cells: Cells) -> Verdict | None:
    try:
        found = parse_verdict(_path(folder, device, cells).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found[1] if found and found[0] == _digest(cells) else None


def parse_verdict(text: str) -> tuple[str, Verdict] | None:
    """The cells' digest and what was found on them; None for anything that `write_verdict` does not write."""
    try:
        raw = parse_json(text)
        median, within10, widths = raw["median"], raw["within10"], raw["half_widths"]
        if not widths or not all(is_number(value) and value >= 0 for value in (median, within10, *widths.values())):
            return None
        verdict = Verdict(raw["contender"], median, within10, widths)
        return (raw["cells"], verdict) if raw["format"] == FORMAT and raw["contender"] in CONTENDERS else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def shipped_contests() -> Path:
    return shipped_data("contests")


def _digest(cells: Cells) -> str:
    """Of everything that contenders are fitted to."""
    facts = repr(cells.facts).encode()
    order = np.lexsort(cells.sizes.T)
    return hashlib.sha256(cells.sizes[order].tobytes() + cells.seconds[order].tobytes() + facts).hexdigest()


def _path(folder: Path, device: str, cells: Cells) -> Path:
    return folder / f"{device}-{cells.precision}.json"
