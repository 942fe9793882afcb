"""`hwfit tables …`: look at, import, compare, check and export latency tables. Each command is the function `name`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Column
from rich.table import Table as RichTable

from hwfit.errors import HwfitError, nearest
from hwfit.lut_store.aiconfigurator import DEFAULT_FRAMEWORK, Imported, import_aiconfigurator
from hwfit.lut_store.compare import Change, compare
from hwfit.lut_store.facts import Facts
from hwfit.lut_store.importing import import_file
from hwfit.lut_store.resolve import resolve
from hwfit.lut_store.schema import OP_COLUMNS
from hwfit.lut_store.shipped import open_table
from hwfit.lut_store.table import Table
from hwfit.progress import out_console

SOURCES = ("aiconfigurator",)
SHOWN = ("p10", "p50", "p90", "half_width", "energy", "status", "kernel", "note")


def import_(
    source: str,
    device: str,
    tables: Path | None = None,
    framework: str = DEFAULT_FRAMEWORK,
    version: str | None = None,
    bandwidth: float | None = None,
    flops: float | None = None,
) -> list[Imported]:
    """Write published (`aiconfigurator`) or your own (a .csv or .parquet file) measurements of DEVICE into a table.

    `bandwidth` (bytes a second) and `flops` (16 bits, a second) of your device help the latency models extrapolate.
    """
    table = Table(tables)
    if source in SOURCES:
        done = import_aiconfigurator(device, table, framework, version)
    elif Path(source).suffix:
        facts = Facts(bandwidth, flops) if bandwidth and flops else None
        done = [Imported(device, import_file(Path(source), device, table, facts), {})]
    else:
        raise HwfitError(f"SOURCE '{source}' is unknown; {nearest(source, SOURCES)}, or a .csv or .parquet file")
    for one in done:
        out_console.print(f"{one.device}: {one.cells} cells written to {table.path}")
        for reason, rows in one.left_out.items():
            out_console.print(f"  left out: {reason} ({rows} rows)")
    return done


def ls(tables: Path | None = None) -> pd.DataFrame:
    """The devices of a table: cells by status, kinds, precisions, and where they come from."""
    table = open_table(tables)
    rows = table.read()
    out = RichTable(
        Column("device", no_wrap=True),
        *("cells", "unstable", "unsupported", "kinds", "precisions", "source"),
        title=str(table.path),
    )
    found = []
    for key, frame in rows.groupby("device"):
        status = frame["status"].tolist()
        linears = frame[frame["kind"] == "linear"]
        found.append(
            {
                "device": key,
                "cells": status.count("OK"),
                "unstable": status.count("UNSTABLE"),
                "unsupported": status.count("UNSUPPORTED"),
                "kinds": ", ".join(sorted(set(frame["kind"]))),
                "precisions": ", ".join(sorted(set(linears["precision"]))),
                "source": ", ".join(sorted(set(frame["backend"]))),
            }
        )
        out.add_row(*(str(v) for v in found[-1].values()))
    out_console.print(out)
    return pd.DataFrame(found)


def show(
    device: str, tables: Path | None = None, kind: str | None = None, precision: str | None = None, m: int | None = None
) -> pd.DataFrame:
    """The cells of a device: times in seconds, status, kernel and note."""
    table = open_table(tables)
    frame: Any = table.read(resolve(table, device))
    for column, wanted in (("kind", kind), ("precision", precision), ("m", m)):
        if wanted is not None:
            there = sorted(set(frame[column]))
            if wanted not in there:
                raise HwfitError(f"--{column} {wanted}: no such cell; {nearest(str(wanted), map(str, there))}")
            frame = frame[frame[column] == wanted]
    out = frame[[*OP_COLUMNS, *SHOWN]].reset_index(drop=True)
    out_console.print(out.to_string(max_rows=60), soft_wrap=True)
    return out


def diff(a: str, b: str, tables: Path | None = None, other: Path | None = None) -> list[Change]:
    """What changed from device A to device B, or for `--other DIR` from this table's A to that one's B."""
    first, second = open_table(tables), open_table(other or tables)
    changes = compare(first.read(resolve(first, a)), second.read(resolve(second, b)))
    out = RichTable(
        "cells of", "count", "B / A", "p10 … p90", "chance", "beyond own noise", "verdict", title=f"{a} -> {b}"
    )
    for c in changes:
        moved = "–" if c.moved is None else f"{c.moved:.0%}"
        out.add_row(
            c.group, str(c.cells), f"{c.ratio:.3f}", f"{c.low:.2f} … {c.high:.2f}", f"{c.p:.1g}", moved, c.verdict
        )
    out_console.print(out)
    return changes


def verify(tables: Path | None = None) -> int:
    """Read every part of a table with all its checks; returns how many rows are good, raises for any that is not."""
    table = open_table(tables)
    rows = len(table.read())
    out_console.print(f"{table.path}: {len(table.parts())} parts, {rows} cells, all readable and plausible")
    return rows


def export(device: str, out: Path, tables: Path | None = None) -> Path:
    """Write the cells of a device to a .csv or .parquet file that `hwfit tables import` reads."""
    writers = {".csv": pd.DataFrame.to_csv, ".parquet": pd.DataFrame.to_parquet}
    if out.suffix not in writers:
        raise HwfitError(f"--out {out}: unknown kind of file; {nearest(out.suffix, writers)}")
    table = open_table(tables)
    frame: Any = table.read(resolve(table, device))
    frame = frame[frame["p10"].notna()].rename(columns={"p10": "latency_s"})
    columns = [*OP_COLUMNS, "latency_s", "p50", "p90", "half_width", "samples", "kernel"]
    writers[out.suffix](frame[columns], out, index=False)
    out_console.print(f"{len(frame)} cells written to {out}")
    return out
