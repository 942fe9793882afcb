"""WholeModel: the latency of a subnet, as the sum of its ops' prices plus a fitted overhead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from hwfit.errors import HwfitError, raise_all
from hwfit.kernels.op import Op, subnet_ops
from hwfit.latency_models.estimate import DataMiss, Estimate
from hwfit.latency_models.memory import memory, read_bytes
from hwfit.latency_models.overhead import NO_OVERHEAD, Overhead
from hwfit.latency_models.robust import Runs, fit_terms
from hwfit.subnet import Subnet
from hwfit.workload import PHASES, Phase

__all__ = ["Prices", "Run", "WholeModel", "fit_overhead", "memory", "sum_ops"]


class Prices(Protocol):
    """The price of an op on one device: `Lookup` or `Fitted`."""

    @property
    def device(self) -> str: ...

    @property
    def precisions(self) -> set[str]:
        """Those of the linears that were measured or refused."""
        ...

    def predict(self, op: Op) -> Estimate:
        """Raises `DataMiss` where there is none."""
        ...

    def price(self, op: Op) -> float:
        """`predict(op).value`."""
        ...


Run = tuple[Subnet, Phase, float]
"""A timed whole model: what, which forward call, seconds."""


@dataclass(frozen=True)
class WholeModel:
    """Seconds of one forward call. Raises `HwfitError` when the overhead was fitted on another device.

    `joules` prices the energy of an op where the device's was counted.
    """

    lookup: Prices
    overhead: Overhead = NO_OVERHEAD
    joules: Prices | None = None

    def __post_init__(self) -> None:
        if self.overhead.device not in ("", self.lookup.device):
            raise HwfitError(
                f"overhead of device '{self.overhead.device}' cannot price device '{self.lookup.device}'; fit it there"
            )

    def predict(self, subnet: Subnet, phase: Phase) -> Estimate:
        """Σ ops + overhead. The interval is the held-out error of the fitted models, or without a fit the ops' own.

        Raises `DataMiss` listing every op without a price.
        """
        ops, terms = sum_ops(self.lookup, subnet, phase), self.overhead.terms(phase.name)
        read = read_bytes(subnet, phase, self.lookup.device) if terms.cache else math.inf
        value, low, high = (terms.apply(s, len(subnet.blocks), read) for s in (ops.value, ops.low, ops.high))
        if terms.runs:
            low, high = value / (1 + terms.error), value * (1 + terms.error)
        return Estimate(value, low, high, "whole")

    @cached_property
    def from_memory(self) -> WholeModel:
        """The same device as if nothing stayed in its last cache from call to call: a sum over ops, which is what
        searches need, and never less than what is predicted."""
        return replace(self, overhead=self.overhead.from_memory)

    def price(self, op: Op) -> float:
        """Seconds of one op, overhead not included: what `ExpectedCost` takes."""
        return self.lookup.price(op)


def sum_ops(lookup: Prices, subnet: Subnet, phase: Phase) -> Estimate:
    """The ops of one forward call added up; intervals add linearly, as if all errors had the same sign."""
    value = low = high = 0.0
    missing: dict[Op, str] = {}
    for op, count in subnet_ops(subnet, phase).items():
        try:
            estimate = lookup.predict(op)
        except DataMiss as miss:
            missing |= miss.missing
            continue
        value += count * estimate.value
        low += count * estimate.low
        high += count * estimate.high
    if missing:
        raise DataMiss(missing, lookup.device)
    return Estimate(value, low, high, "whole")


def fit_overhead(lookup: Prices, runs: Sequence[Run], cache: float = 0.0) -> Overhead:
    """The overhead of each phase from timed models; a phase without runs adds nothing. `cache` is the bytes of the
    device's last one: with 0 nothing is taken to stay in it from call to call.

    Raises `HwfitError` for times that are no positive number, and `DataMiss` for a model the table cannot price.
    """
    raise_all(
        [f"run {i}: {s!r} seconds is no positive number" for i, (_, _, s) in enumerate(runs) if not 0 < s < math.inf]
    )
    fitted = {}
    for name in PHASES:
        mine = [run for run in runs if run[1].name == name]
        fitted[name] = fit_terms(
            Runs(
                ops=np.array([sum_ops(lookup, subnet, phase).value for subnet, phase, _ in mine]),
                blocks=np.array([float(len(subnet.blocks)) for subnet, _, _ in mine]),
                read=np.array([read_bytes(subnet, phase, lookup.device) for subnet, phase, _ in mine]),
                seconds=np.array([seconds for _, _, seconds in mine]),
                cache=cache,
            )
        )
    return Overhead(**fitted, device=lookup.device)
