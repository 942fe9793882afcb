"""Compare: what two tables, or two devices of one, say about the same cells; are the differences more than noise?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from hwfit.errors import HwfitError
from hwfit.lut_store.schema import OP_COLUMNS

LEAST = 0.005
"""A change of the median below this share is never called one."""
SURE = 0.01
"""Probability of a median change this large by chance, after Holm's correction over the groups."""


@dataclass(frozen=True)
class Change:
    """`b` against `a` over the cells of one group: medians of the ratio b / a and the share beyond their own noise.

    `p` is the Wilcoxon signed-rank probability of the log ratios under no change, corrected for the number of groups.
    `moved`: share of cells whose own 95 % intervals do not touch, of those that have intervals (None if none has).
    """

    group: str
    cells: int
    ratio: float
    low: float
    high: float
    p: float
    moved: float | None

    @property
    def verdict(self) -> str:
        if self.p > SURE or abs(self.ratio - 1) < LEAST:
            return "no change"
        return "slower" if self.ratio > 1 else "faster"


def compare(a: pd.DataFrame, b: pd.DataFrame) -> list[Change]:
    """Changes from `a` to `b` (rows of `Table.read`) by kind, precision and decode or prefill; largest first.

    Raises `HwfitError` if they have no cell with a time in common.
    """
    sides = [frame[frame["status"].isin(["OK", "UNSTABLE"]) & (frame["p10"] > 0)] for frame in (a, b)]
    both = sides[0].merge(sides[1], on=list(OP_COLUMNS), suffixes=("_a", "_b"))
    if not len(both):
        raise HwfitError("the two have no cell in common, so nothing can be compared")
    regime = np.where(both["m"] == 1, "m=1", np.where(both["m"] <= 32, "m=2…32", "m≥33"))
    names = both["kind"] + np.where(both["kind"].isin(["linear", "embed"]), " " + both["precision"], "") + " " + regime
    found = [_change(str(name), rows) for name, rows in both.groupby(names)]
    ranked = sorted(range(len(found)), key=lambda i: found[i].p)
    worst = 0.0
    for place, i in enumerate(ranked):  # Holm: the smallest p counts as often as there are groups
        worst = max(worst, min(1.0, found[i].p * (len(found) - place)))
        found[i] = Change(**{**found[i].__dict__, "p": worst})
    return sorted(found, key=lambda c: -abs(np.log(c.ratio)))


def _change(name: str, rows: pd.DataFrame) -> Change:
    logs = np.log(rows["p10_b"].to_numpy() / rows["p10_a"].to_numpy())
    test: Any = wilcoxon  # its stubs know no result
    p = float(test(logs).pvalue) if len(logs) >= 6 and np.abs(logs).max() > 0 else 1.0
    low, mid, high = np.exp(np.quantile(logs, (0.1, 0.5, 0.9)))
    widths = rows[["half_width_a", "half_width_b"]].to_numpy(dtype=float)
    known = np.isfinite(widths).all(axis=1) & (widths > 0).any(axis=1)
    gap = np.abs(rows["p10_b"].to_numpy() - rows["p10_a"].to_numpy())
    moved = float((gap > widths.sum(axis=1))[known].mean()) if known.any() else None
    return Change(name, len(rows), float(mid), float(low), float(high), p, moved)
