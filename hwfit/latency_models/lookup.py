"""Lookup: the latency of one op on one device, read from its table or interpolated between what was measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from hwfit.errors import HwfitError, nearest
from hwfit.kernels.op import Kind, Op
from hwfit.latency_models.estimate import DataMiss, Estimate
from hwfit.latency_models.surface import Errors, Sizes, Surface, best_surface
from hwfit.lut_store.schema import op_of

USABLE = ("OK", "UNSTABLE")
FEWEST = 5  # held-out points below which a family borrows the error of its kind
UNKNOWN = 0.25  # relative half-interval where nothing could be held out

# kind -> the sizes it is interpolated over; every other field must match exactly
SIZES: dict[Kind, Callable[[Op], Sizes]] = {
    "linear": lambda op: (op.n, op.k),
    "embed": lambda op: (op.n, op.k),
    "attention": lambda op: (op.n, op.head_size, op.context),
    "norm": lambda op: (op.k,),
    "swiglu": lambda op: (op.k,),
}


@dataclass(frozen=True, order=True)
class Family:
    """Ops that may be interpolated between: the same kind, rows, precision and queries a KV head."""

    kind: Kind
    m: int
    precision: str
    ratio: int = 0

    @classmethod
    def of(cls, op: Op) -> Family:
        ratio = op.n // op.k if op.kind == "attention" and op.k else 0
        return cls(op.kind, op.m, op.precision, ratio)

    def __str__(self) -> str:
        return f"{self.kind} m={self.m}" + (f" {self.precision}" if self.kind in ("linear", "embed") else "")


@dataclass(frozen=True)
class Lookup:
    """One device's table as a function of op. Values are the p10 seconds of the protocol.

    `loo`: relative errors of each family's points when predicted without themselves; they set the interval of what is
    interpolated. What was measured has its own interval.
    """

    device: str
    measured: dict[Op, Estimate]
    surfaces: dict[Family, Surface]
    loo: dict[Family, Errors]
    refused: dict[Op, str]
    _gaps: dict[Family, float] = field(repr=False)
    _memo: dict[Op, Estimate] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def fit(cls, frame: pd.DataFrame, device: str) -> Lookup:
        """From `lut_store.Table.read()`. Rows that stayed `UNSTABLE` count, with their own wide interval.

        Raises `HwfitError` if `device` has no row with a time, naming the devices that have.
        """
        rows = [row for row in frame.to_dict("records") if row["device"] == device]
        timed = [row for row in rows if row["status"] in USABLE and row["p10"] > 0]
        if not timed:
            known = sorted(set(frame["device"])) if len(frame) else []
            there = nearest(device, known) if known else "the table is empty"
            raise HwfitError(
                f"tables: no measurement of device '{device}'; {there}. Measure this one with `hwfit profile MODEL`"
            )
        measured = {op_of(row): _measured(row) for row in timed}
        reasons = {op_of(row): f"{row['status']}: {row.get('note') or 'no reason noted'}" for row in rows}
        families: dict[Family, dict[Sizes, float]] = defaultdict(dict)
        for op, estimate in measured.items():
            families[Family.of(op)][SIZES[op.kind](op)] = estimate.value
        fitted = {family: best_surface(points) for family, points in families.items()}
        held = {family: out for family, (_, out) in fitted.items() if out}
        return cls(
            device=device,
            measured=measured,
            surfaces={family: surface for family, (surface, _) in fitted.items()},
            loo={family: Errors.of([e for e, _ in out]) for family, out in held.items()},
            refused={op: reason for op, reason in reasons.items() if op not in measured},
            _gaps={family: float(np.median([g for _, g in out])) for family, out in held.items()},
        )

    @property
    def precisions(self) -> set[str]:
        """Those of the linears that were measured or refused."""
        return {op.precision for op in (*self.measured, *self.refused) if op.kind == "linear"}

    def predict(self, op: Op) -> Estimate:
        """Measured, or interpolated. Raises `DataMiss` beyond the measured sizes, or for what the device cannot run."""
        if (known := self._memo.get(op)) is None:
            known = self._memo[op] = self.measured.get(op) or self._interpolated(op)
        return known

    def price(self, op: Op) -> float:
        """`predict(op).value`, in seconds: what `ExpectedCost` takes."""
        return self.predict(op).value

    def error(self, family: Family) -> float:
        """Relative error that 90 % of this family's held-out points stay within, or else of its kind's."""
        own = self.loo.get(family)
        if own and own.points >= FEWEST:
            return own.p90
        kin = [errors.p90 for other, errors in self.loo.items() if other.kind == family.kind]
        return max(kin, default=UNKNOWN)

    def _interpolated(self, op: Op) -> Estimate:
        family, sizes = Family.of(op), SIZES[op.kind](op)
        surface = self.surfaces.get(family)
        if op in self.refused or surface is None:
            raise DataMiss({op: self.refused.get(op) or self._unknown(family)}, self.device)
        value = surface(sizes)
        if value is None:
            ranges = ", ".join(f"{min(axis)}…{max(axis)}" for axis in zip(*surface.points, strict=True))
            reason = f"outside the {len(surface.points)} measured sizes ({ranges}) of its kind and precision"
            raise DataMiss({op: reason}, self.device)
        stretch = max(1.0, surface.gap(sizes) / self._gaps[family]) if self._gaps.get(family) else 1.0
        spread = self.error(family) * stretch
        return Estimate(value, value / (1 + spread), value * (1 + spread), "interpolated")

    def _unknown(self, family: Family) -> str:
        """Why a whole family is missing: the device refuses it, or what of its kind was measured instead."""
        told = {reason for op, reason in self.refused.items() if Family.of(op) == family}
        if told:
            return min(told)
        kin = sorted(str(f) for f in self.surfaces if f.kind == family.kind)
        return f"nothing like it was measured; measured: {', '.join(kin) or f'no {family.kind}'}"


def _measured(row: dict[Hashable, Any]) -> Estimate:
    value, half = float(row["p10"]), float(row.get("half_width") or 0.0)
    half = half if np.isfinite(half) else 0.0
    return Estimate(value, max(0.0, value - half), value + half, "measured")
