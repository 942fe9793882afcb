"""Load: the whole-model latency predictor of a device, fitted from what its table's folder holds."""

from __future__ import annotations

from pathlib import Path

from hwfit.latency_models.lookup import Lookup
from hwfit.latency_models.whole import WholeModel, fit_overhead
from hwfit.lut_store.table import Table
from hwfit.lut_store.whole_runs import read_runs


def load_latency(device: str, tables: Path | None = None) -> WholeModel:
    """Fit lookup and overhead for the device key `device`; refitted from the table each time, never stored.

    Raises `HwfitError` for an empty table, another device's, or a damaged part.
    """
    table = Table(tables)
    lookup = Lookup.fit(table.read(device), device)
    runs = [(run.subnet, run.phase, run.seconds) for run in read_runs(table.path, device)]
    return WholeModel(lookup, fit_overhead(lookup, runs))
