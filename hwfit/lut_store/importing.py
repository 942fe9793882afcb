"""Importing: anyone's own measurements from CSV or parquet, every row checked before one is kept.

    required   m, n, k, precision, and exactly one of latency_s, latency_ms, latency_us
    optional   kind (linear), head_size, context, p50 and p90 and half_width (in the latency's unit), samples, kernel

One row a cell. Sizes mean what they do in `kernels.op.Op`.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hwfit.errors import HwfitError, nearest, raise_all
from hwfit.files import is_number
from hwfit.kernels.op import Kind, Op
from hwfit.lut_store.facts import KEY, Facts
from hwfit.lut_store.schema import Measurement, RunInfo
from hwfit.lut_store.table import Table
from hwfit.precision import KNOWN, Precision

UNITS = {"latency_s": 1.0, "latency_ms": 1e-3, "latency_us": 1e-6}
REQUIRED = ("m", "n", "k", "precision")
OPTIONAL = ("kind", "head_size", "context", "p50", "p90", "half_width", "samples", "kernel")
AGREE = 0.05
"""Two rows of one cell may differ by this share; the first is kept."""
SHOWN = 20
LARGEST = 2**28
INDEX = re.compile(r"__index_level_\d+__")


def import_file(path: Path, device: str, table: Table, facts: Facts | None = None) -> int:
    """Write the rows of `path` as measurements of `device`; returns how many.

    Raises `HwfitError` naming file, row and column of everything wrong: missing or unknown columns, mixed units,
    sizes and latencies that are no positive numbers, unknown precisions, cells that come twice and disagree.
    """
    frame = _load(path)
    unit = _unit(frame, path)
    problems: list[str] = []
    cells: dict[Op, tuple[int, Measurement]] = {}
    run = imported_run(f"import-{uuid.uuid4().hex[:8]}", device, {"source": path.name}, facts)
    for number, row in enumerate(frame.to_dict("records"), 2 if path.suffix == ".csv" else 1):
        found = _row(row, f"{path}: row {number}", unit, run)
        if isinstance(found, list):
            problems += found
        elif (known := cells.get(found.op)) is None:
            cells[found.op] = number, found
        elif abs((apart := (found.p10 or 0) / (known[1].p10 or 1)) - 1) > AGREE:
            problems.append(
                f"{path}: rows {known[0]} and {number} are one cell, but disagree by a factor of {apart:.3g}"
            )
    if len(problems) > SHOWN:
        problems = [*problems[:SHOWN], f"{path}: … and {len(problems) - SHOWN} more"]
    raise_all(problems)
    if not cells:
        raise HwfitError(f"{path}: no rows; one row a cell is needed, with the columns {', '.join(REQUIRED)}")
    table.append([measurement for _, measurement in cells.values()], run)
    return len(cells)


def imported_run(
    run_id: str,
    device: str,
    source: Mapping[str, Any],
    facts: Facts | None = None,
    versions: Mapping[str, str] | None = None,
) -> RunInfo:
    """Provenance of what was measured elsewhere: where it came from, and what the device can do if that is known."""
    known = {KEY: facts.to_dict()} if facts else {}
    return RunInfo(
        run_id=run_id,
        device=device,
        fingerprint={"name": device, **source, **known},
        versions=versions or {},
        commit="",
        load=0.0,
        started=time.time(),
    )


def imported_row(op: Op, run: RunInfo, **fields: Any) -> Measurement:
    """A measurement of `run`; `fields` are its `backend`, times in seconds and what else is known."""
    return Measurement(
        op=op,
        status="OK",
        device=run.device,
        run_id=run.run_id,
        measured_at=run.started,
        weight_bytes=Precision.parse(op.precision).weight_bytes(op.n, op.k) if op.kind == "linear" else 0,
        **fields,
    )


def _parquet(path: Path) -> pd.DataFrame:
    """The columns of a file, but for an index that pandas wrote, and whatever its notes in it say."""
    table = pq.read_table(path).replace_schema_metadata(None)
    return table.select([name for name in table.column_names if not INDEX.fullmatch(name)]).to_pandas()


def _load(path: Path) -> pd.DataFrame:
    readers = {".csv": pd.read_csv, ".parquet": _parquet}
    if path.suffix not in readers:
        raise HwfitError(f"{path}: unknown kind of file; {nearest(path.suffix, readers)}")
    try:
        return readers[path.suffix](path)
    except FileNotFoundError as error:
        raise HwfitError(f"{path}: no such file") from error
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise HwfitError(f"{path}: cannot be read as {path.suffix[1:]} ({reason})") from error


def _unit(frame: pd.DataFrame, path: Path) -> str:
    """The latency column. Raises `HwfitError` for wrong columns."""
    columns = [str(c) for c in frame.columns]
    units = [c for c in columns if c in UNITS]
    allowed = (*REQUIRED, *UNITS, *OPTIONAL)
    problems = [f"{path}: column '{c}' is missing" for c in REQUIRED if c not in columns]
    problems += [f"{path}: column '{c}' is unknown; {nearest(c, allowed)}" for c in columns if c not in allowed]
    if len(units) != 1:
        told = f"mixed units {', '.join(units)}" if units else "no latency"
        problems.append(f"{path}: {told}; exactly one column of {', '.join(UNITS)} is needed")
    raise_all(problems)
    return units[0]


def _row(row: Mapping[Hashable, Any], where: str, unit: str, run: RunInfo) -> Measurement | list[str]:
    """The measurement, or what is wrong with it."""
    kind, problems = str(row.get("kind", "linear")), []
    if kind not in get_args(Kind):
        problems.append(f"{where}, kind: '{kind}' is unknown; {nearest(kind, get_args(Kind))}")
    name = str(row["precision"])
    if name not in KNOWN:
        problems.append(f"{where}, precision: '{name}' is unknown; {nearest(name, KNOWN)}")
    sizes: dict[str, int] = {}
    for column in ("m", "n", "k", "head_size", "context"):
        value = row.get(column, 0)
        least = 1 if column == "m" or (kind == "linear" and column in "nk") else 0
        if not is_number(value) or value != int(value) or not least <= value <= LARGEST:
            problems.append(f"{where}, {column}: {value!r} must be a whole number of at least {least}, at most 2^28")
        else:
            sizes[column] = int(value)
    times: dict[str, float | None] = {"p10": row[unit]}
    times |= {c: row.get(c) for c in ("p50", "p90", "half_width") if is_number(row.get(c))}
    for column, value in times.items():
        if not is_number(value) or value < 0 or (value == 0 and column == "p10"):  # pyright: ignore[reportOptionalOperand]
            problems.append(f"{where}, {unit if column == 'p10' else column}: {value!r} must be a positive number")
    if problems:
        return problems
    seconds = {column: float(value) * UNITS[unit] for column, value in times.items() if value is not None}
    op = Op(kind, sizes["m"], sizes["n"], sizes["k"], name, sizes["head_size"], sizes["context"])  # pyright: ignore[reportArgumentType]
    samples = int(row["samples"]) if is_number(row.get("samples")) and 0 <= row["samples"] <= LARGEST else 0
    backend, kernel = f"import {run.fingerprint['source']}", str(row.get("kernel", ""))
    return imported_row(op, run, backend=backend, kernel=kernel, samples=samples, **seconds)
