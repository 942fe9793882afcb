"""Verify: is every row of a part one that a measurement could have written? Checked whenever a part is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from hwfit.errors import nearest
from hwfit.kernels.op import Kind
from hwfit.lut_store.schema import OP_COLUMNS, PROTOCOL, TIMES, Status
from hwfit.precision import KNOWN

SHOWN = 3
"""Rows named of each kind of problem."""
SIZES = ("m", "n", "k", "head_size", "context")
NAMES = {"kind": get_args(Kind), "precision": KNOWN, "status": get_args(Status)}
AGREE = 0.5
"""Rows of one cell and run may differ by this share."""


def problems_of(rows: pa.Table, source: str) -> list[str]:
    """What is wrong with the rows of `source` (columns of `SCHEMA`), with file, row (from 0) and column."""
    frame: pd.DataFrame = rows.to_pandas()
    return [_told(source, column, frame[column], bad, rule) for column, bad, rule in _broken(frame) if bad.any()]


def _broken(frame: Any) -> Iterator[tuple[str, NDArray[np.bool_], str]]:
    """(column, which rows, what is allowed) of every rule."""
    newer = (frame["protocol"] > PROTOCOL).to_numpy()  # may know names that this hwfit does not; refused when read
    for column, allowed in NAMES.items():
        bad = ~frame[column].isin(allowed).to_numpy() & ~newer
        example = str(frame[column][bad].iloc[0]) if bad.any() else ""
        yield column, bad, nearest(example, allowed)
    for column in SIZES:
        yield column, (frame[column] < (column == "m")).to_numpy(), "sizes are whole numbers, m at least 1"
    for column in TIMES:
        times = frame[column].to_numpy(dtype=float)
        least = 0.0 if column in ("std", "half_width") else np.nextafter(0, 1)
        known = ~np.isnan(times)
        yield column, known & ~((times >= least) & (times < np.inf)), "times are positive seconds"
    timeless = (frame["status"] == "OK").to_numpy() & frame["p10"].isna().to_numpy()
    yield "p10", timeless, "a row that is OK has a time"
    cells = frame.groupby([*OP_COLUMNS, "device", "run_id"])["p10"]
    apart = (cells.transform("max") / cells.transform("min") - 1).to_numpy()
    most = f"{np.nanmax(apart, initial=0):.0%}"
    yield "p10", apart > AGREE, f"rows of one cell in one run may differ by {AGREE:.0%}; the largest differ by {most}"


def _told(source: str, column: str, values: Any, bad: NDArray[np.bool_], rule: str) -> str:
    rows = np.flatnonzero(bad)
    shown = ", ".join(f"row {i}: {values.iloc[i]!r}" for i in rows[:SHOWN])
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return f"{source}, {column}: {shown}{more}; {rule}"
