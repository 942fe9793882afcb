"""Shipped: measured tables that come with the package, read with `--tables shipped` and `--device KEY`."""

from __future__ import annotations

from collections import defaultdict
from importlib.resources import files
from pathlib import Path

from hwfit.lut_store.schema import Measurement
from hwfit.lut_store.table import Table
from hwfit.lut_store.whole_runs import append_runs, read_runs

SHIPPED = "shipped"


def open_table(tables: Path | str | None) -> Table:
    """The table of a `--tables` argument: a folder, `shipped`, or the user's cache for None."""
    return Table(shipped_folder(), writable=False) if str(tables) == SHIPPED else Table(tables)


def shipped_folder() -> Path:
    return shipped_data("tables")


def shipped_data(folder: str) -> Path:
    """A folder of the data that come with the package."""
    return Path(str(files("hwfit"))) / "data" / folder


def condense(source: Table, target: Table) -> list[Path]:
    """Copy `source` into `target`, one part a run: the latest row of every cell, with its run's provenance.

    Returns the parts written. Raises `HwfitError` for a bad part of `source` and a `target` that cannot be written.
    """
    written = []
    runs = {run.run_id: run for run in source.runs()}
    for device in source.devices():
        rows: dict[str, list[Measurement]] = defaultdict(list)
        for row in source.read(device).to_dict("records"):
            clean = {name: None if value != value else value for name, value in row.items()}  # NaN is null
            rows[str(row["run_id"])].append(Measurement.from_row(clean))
        written += [target.append(measurements, runs[run]) for run, measurements in rows.items()]
        if whole := read_runs(source.path, device):
            written.append(append_runs(target.path, device, whole))
    return written
