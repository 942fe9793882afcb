"""Resolve: which device of a table a name means; never another device than the one asked for."""

from __future__ import annotations

from hwfit.errors import HwfitError, nearest
from hwfit.lut_store.aiconfigurator import device_names
from hwfit.lut_store.table import Table


def resolve(table: Table, device: str, flag: str = "--device") -> str:
    """The one key of `table` that `device`, the value of `flag`, names, whole or by its beginning.

    Raises `HwfitError` for none (naming those there are and how to get this one) or several.
    """
    keys = table.devices()
    found = [key for key in keys if key == device] or [key for key in keys if key.startswith(f"{device}-")]
    if len(found) == 1:
        return found[0]
    if found:
        raise HwfitError(f"{flag} {device}: {len(found)} of table {table.path} begin so: {', '.join(found)}; name one")
    known = f"it holds others ({nearest(device, keys)})" if keys else "the table is empty"
    how = "profile it with `hwfit profile MODEL`, or import its numbers: `hwfit tables import FILE --device NAME`"
    if device in device_names():
        how = f"import it with `hwfit tables import aiconfigurator --device {device}`"
    raise HwfitError(
        f"{flag} {device} is not in table {table.path}; {known}. Latencies are never borrowed from another device: "
        f"{how}"
    )
