"""Load: the whole-model latency predictor of a device, fitted from what its table's folder holds."""

from __future__ import annotations

from pathlib import Path

from hwfit.latency_models.lookup import Lookup
from hwfit.latency_models.whole import WholeModel, fit_overhead
from hwfit.lut_store.shipped import open_table
from hwfit.lut_store.whole_runs import read_runs


def load_latency(device: str, tables: Path | str | None = None) -> WholeModel:
    """Fit lookup and overhead for the device key `device`; refitted from the table each time, never stored.

    `tables` is a folder, or `shipped`.
    Raises `HwfitError` for an empty table, another device's, or a damaged part.
    """
    table = open_table(tables)
    lookup = Lookup.fit(table.read(device), device)
    runs = [(run.subnet, run.phase, run.seconds) for run in read_runs(table.path, device)]
    return WholeModel(lookup, fit_overhead(lookup, runs))
