"""Facts: what a device can do at best, from its data sheet or its anchors: the roofline of latency models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from hwfit.errors import HwfitError
from hwfit.files import is_number
from hwfit.lut_store.table import Table

KEY = "facts"
"""Where a run's fingerprint holds them."""


@dataclass(frozen=True)
class Facts:
    """Bytes a second from memory; multiply-adds x 2 a second at 16 and 8 bits; 0 where nobody says.

    `multiprocessors` of a GPU (or cores); `memory` and `l2` in bytes.
    """

    bandwidth: float
    flops16: float
    flops8: float = 0.0
    multiprocessors: int = 1
    memory: int = 0
    l2: int = 0

    def flops(self, act_bits: int) -> float:
        """The rate of products whose operands both have at most `act_bits` bits."""
        return self.flops8 if act_bits <= 8 and self.flops8 else self.flops16

    def to_dict(self) -> dict[str, float]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], source: str) -> Facts:
        """Raises `HwfitError` naming `source` and every impossible value."""
        names = [f.name for f in fields(cls)]
        if not isinstance(raw, Mapping):
            raise HwfitError(f"{source}: facts must be an object, not {raw!r:.60}")
        problems = [
            f"{source}: unknown fact '{name}'; allowed: {', '.join(names)}" for name in raw if name not in names
        ]
        for name in names:
            value = raw.get(name, 0)
            if not is_number(value) or value < 0 or (name in ("bandwidth", "flops16") and value == 0):
                problems.append(f"{source}: {name}={value!r} must be a positive number")
        if problems:
            raise HwfitError(problems)
        return cls(**dict(raw))


def facts_of(table: Table, device: str) -> Facts:
    """Those of the newest run of `device` that brought some, else what its anchors reached.

    Raises `HwfitError` for a device without rows, or one whose rows have neither.
    """
    runs = [run for run in table.runs() if run.device == device]
    for run in reversed(runs):
        if KEY in run.fingerprint:
            return Facts.from_dict(run.fingerprint[KEY], f"{table.path}: run {run.run_id}")
    frame = table.read(device)
    stream, compute = (frame[name].dropna().tolist() for name in ("stream", "compute"))
    if not stream or not compute:
        raise HwfitError(f"table {table.path} has neither facts nor anchors of device '{device}'; import or profile it")
    newest: Mapping[str, Any] = runs[-1].fingerprint if runs else {}
    return Facts(1 / min(stream), 2 / min(compute), 0.0, int(newest.get("cores") or 1), int(newest.get("memory") or 0))


def last_cache(table: Table, device: str) -> int:
    """Bytes of the last cache before memory, as the newest run of `device` that knows says; 0 where none does."""
    sizes = [_last(run.fingerprint) for run in table.runs() if run.device == device]
    return next((size for size in reversed(sizes) if size), 0)


def _last(fingerprint: Mapping[str, Any]) -> int:
    found = next((fingerprint[level] for level in ("l3", "l2") if fingerprint.get(level)), 0)
    return int(found) if is_number(found) and found > 0 else 0
