"""Cells: the measured linears of one device at one precision as arrays, and what they may be grouped by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hwfit.errors import HwfitError
from hwfit.lut_store.facts import Facts
from hwfit.precision import Precision

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
REGIMES = ("m1", "m2_32", "m33")
"""One row, a few rows, many rows: bound by memory, by both, by arithmetic."""


@dataclass(frozen=True)
class Cells:
    """`sizes [cells, 3]` are m, n, k; `seconds [cells]` what they took."""

    sizes: Array
    seconds: Array
    precision: Precision
    facts: Facts

    @classmethod
    def of(cls, frame: pd.DataFrame, precision: str, facts: Facts) -> Cells:
        """From rows of one device (`Table.read`). Raises `HwfitError` if it has no linear at `precision`."""
        rows: Any = frame[(frame["kind"] == "linear") & (frame["precision"] == precision) & (frame["p10"] > 0)]
        if not len(rows):
            there = sorted(set(frame[frame["kind"] == "linear"]["precision"]))
            raise HwfitError(f"no measured linear at {precision}; measured: {', '.join(there) or 'none'}")
        sizes = np.asarray(rows[["m", "n", "k"]].to_numpy(), dtype=np.float64)
        return cls(sizes, np.asarray(rows["p10"], dtype=np.float64), Precision.parse(precision), facts)

    def __len__(self) -> int:
        return len(self.seconds)

    def where(self, mask: Mask) -> Cells:
        return Cells(self.sizes[mask], self.seconds[mask], self.precision, self.facts)

    @property
    def shapes(self) -> NDArray[np.int64]:
        """A number for each cell's (n, k): cells of one shape differ in rows only."""
        return np.unique(self.sizes[:, 1:], axis=0, return_inverse=True)[1].astype(np.int64)


def regime(m: Array) -> NDArray[np.int64]:
    """Index into `REGIMES` of each number of rows."""
    return np.digitize(m, [2, 33]).astype(np.int64)
