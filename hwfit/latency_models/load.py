"""Load: the whole-model latency predictor of a device, fitted from what its table's folder holds."""

from __future__ import annotations

from pathlib import Path

from hwfit.latency_models.lookup import Lookup
from hwfit.latency_models.whole import Prices, WholeModel, fit_overhead
from hwfit.lut_store.facts import facts_of, last_cache
from hwfit.lut_store.shipped import open_table
from hwfit.lut_store.whole_runs import read_runs

DENSE = 2000
"""Linears from which a table is a dense grid, predicted by what won on it rather than looked up."""


def load_prices(device: str, tables: Path | str | None = None) -> Prices:
    """The price of every op on the device key `device`. Raises as `load_latency`."""
    table = open_table(tables)
    frame = table.read(device)
    if frame["kind"].tolist().count("linear") < DENSE:
        return Lookup.fit(frame, device)
    from hwfit.latency_models.fitted import Fitted  # scikit-learn takes a second to load

    return Fitted(device, frame, facts_of(table, device), table.path)


def load_energy(device: str, tables: Path | str | None = None) -> Lookup | None:
    """Joules of one call of every op, idle power included, as a `Lookup` of joules in the place of seconds; None where
    the table has no energy (processors, published tables). `sum_ops` of it is a forward call's: layers only, for no
    whole model's energy has been measured.
    """
    frame = open_table(tables).read(device)
    counted = frame[frame["energy"] > 0]
    if "linear" not in set(counted["kind"]):
        return None
    return Lookup.fit(counted.assign(p10=counted["energy"], half_width=0.0), device)


def load_latency(device: str, tables: Path | str | None = None) -> WholeModel:
    """Fit lookup, overhead and energy for the device key `device`; refitted from the table each time, never stored.

    `tables` is a folder, or `shipped`.
    Raises `HwfitError` for an empty table, another device's, or a damaged part.
    """
    table = open_table(tables)
    lookup = load_prices(device, tables)
    runs = [(run.subnet, run.phase, run.seconds) for run in read_runs(table.path, device)]
    return WholeModel(lookup, fit_overhead(lookup, runs, last_cache(table, device)), load_energy(device, tables))
