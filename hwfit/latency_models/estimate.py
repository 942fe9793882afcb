"""Estimate: a latency with an interval and where it came from; DataMiss: the table cannot say, and what would help."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from hwfit.errors import HwfitError
from hwfit.kernels.op import Op

SHOWN = 12


@dataclass(frozen=True)
class Estimate:
    """Seconds, with `low` ≤ `value` ≤ `high`. `source`: measured, interpolated, or whole (a sum over a model)."""

    value: float
    low: float
    high: float
    source: str

    @property
    def spread(self) -> float:
        """Half the interval as a fraction of the value."""
        return (self.high - self.low) / (2 * self.value) if self.value else 0.0


class DataMiss(HwfitError):
    """The table has no answer for some ops. `missing` maps each to the reason; nothing is ever borrowed or invented."""

    def __init__(self, missing: Mapping[Op, str], device: str):
        self.missing = dict(missing)
        self.device = device
        shown = [f"{describe(op)}: {reason}" for op, reason in sorted(self.missing.items())[:SHOWN]]
        more = [f"… and {len(self.missing) - SHOWN} more"] if len(self.missing) > SHOWN else []
        head = f"the latency table of device '{device}' has no answer for {len(self.missing)} op(s)"
        remedy = "measure them on that device with `hwfit profile MODEL` (it resumes: only missing cells are timed)"
        super().__init__([head, *shown, *more, remedy])


def describe(op: Op) -> str:
    """`linear m=1 n=576 k=1536 w4a8g32`: the fields of an op that mean something for its kind."""
    match op.kind:
        case "linear" | "embed":
            return f"{op.kind} m={op.m} n={op.n} k={op.k} {op.precision}"
        case "attention":
            return f"attention m={op.m} heads={op.n} kv_heads={op.k} head_size={op.head_size} context={op.context}"
        case _:
            return f"{op.kind} m={op.m} width={op.k}"


def price_all(price: Callable[[Op], float], ops: Iterable[Op]) -> dict[Op, float]:
    """The price of every distinct op. Raises one `DataMiss` that lists all the ops `price` cannot answer."""
    prices: dict[Op, float] = {}
    missing: dict[Op, str] = {}
    device = ""
    for op in dict.fromkeys(ops):
        try:
            prices[op] = float(price(op))
        except DataMiss as miss:
            missing |= miss.missing
            device = miss.device
    if missing:
        raise DataMiss(missing, device)
    return prices
