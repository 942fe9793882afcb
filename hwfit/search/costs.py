"""Costs: every metric a budget may limit, priced for one subnet and, differentiably, for a distribution over them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from torch import Tensor, nn

from hwfit.errors import HwfitError
from hwfit.latency_models.choices import Choices
from hwfit.latency_models.differentiable import ExpectedCost, expected_memory
from hwfit.latency_models.estimate import DataMiss
from hwfit.latency_models.memory import disk, memory, op_disk, op_params
from hwfit.latency_models.whole import Prices, WholeModel, sum_ops
from hwfit.search.budget import METRICS
from hwfit.space import Space
from hwfit.subnet import Subnet
from hwfit.workload import PhaseName, Workload

COUNTED = ("energy", "power")
"""Metrics that need the joules of a table."""


def predicted_cost(
    latency: WholeModel, workload: Workload, subnet: Subnet, metrics: Collection[str] | None = None
) -> dict[str, float]:
    """`metric -> cost` in the units of `hwfit.search.budget`; without `metrics`, all that the table can price.

    Latencies are those of weights that come from memory (`WholeModel.from_memory`): sums over ops, as searches need.
    Raises `DataMiss` for ops without a price, `HwfitError` for energy that was never counted.
    """
    if metrics is not None:
        return {name: _COSTS[name](latency, workload, subnet) for name in metrics}
    costs = predicted_cost(latency, workload, subnet, [m for m in METRICS if m not in COUNTED])
    if latency.joules:
        try:
            return costs | predicted_cost(latency, workload, subnet, COUNTED)
        except DataMiss:
            pass  # energy was counted on some of this model's ops only; `ExpectedCosts` says so where it is asked for
    return costs


def _seconds(phase: PhaseName, latency: WholeModel, workload: Workload, subnet: Subnet) -> float:
    return latency.from_memory.predict(subnet, workload.phase(phase)).value


def _energy(latency: WholeModel, workload: Workload, subnet: Subnet) -> float:
    """Joules a token: one call of decode gives one to each sequence."""
    return sum_ops(counted(latency), subnet, workload.decode).value / workload.batch


def _power(latency: WholeModel, workload: Workload, subnet: Subnet) -> float:
    joules = _energy(latency, workload, subnet) * workload.batch
    return joules / _seconds("decode", latency, workload, subnet)


_COSTS: Mapping[str, Callable[[WholeModel, Workload, Subnet], float]] = {
    "decode": partial(_seconds, "decode"),
    "prefill": partial(_seconds, "prefill"),
    "memory": lambda latency, w, subnet: float(memory(subnet, w.context, w.batch, latency.lookup.device)),
    "disk": lambda latency, w, subnet: float(disk(subnet)),
    "params": lambda latency, w, subnet: float(subnet.params),
    "1/params": lambda latency, w, subnet: 1 / subnet.params,
    "energy": _energy,
    "power": _power,
}


def counted(latency: WholeModel) -> Prices:
    """The joules of the device. Raises `HwfitError` where the table has none."""
    if latency.joules is None:
        raise HwfitError(
            f"the table of device '{latency.lookup.device}' has no energy, which --budget energy= and power= need; "
            "`hwfit profile MODEL --device cuda` counts it on an NVIDIA GPU (NVML), a processor has no such counter; "
            "allowed here: every other budget"
        )
    return latency.joules


class ExpectedCosts(dict[str, nn.Module]):
    """`metric -> module(choices)`: the expected cost of a distribution; a metric is priced when it is first asked for.

    Reciprocals and quotients are those of the expectations. Raises `DataMiss` listing what of the space has no price.
    """

    def __init__(self, space: Space, block_order: Sequence[int], latency: WholeModel, workload: Workload):
        super().__init__()
        self.space, self.order, self.latency, self.workload = space, block_order, latency, workload

    def __missing__(self, metric: str) -> nn.Module:
        self[metric] = _EXPECTED[metric](self)
        return self[metric]

    def of_ops(self, price: Callable, phase: PhaseName = "decode", **options) -> ExpectedCost:
        return ExpectedCost(self.space, self.order, self.workload.phase(phase), price, **options)

    def of_phase(self, phase: PhaseName) -> ExpectedCost:
        return self.of_ops(self.latency.price, phase, overhead=self.latency.overhead)

    def of_memory(self) -> ExpectedCost:
        w = self.workload
        return expected_memory(self.space, self.order, w.context, w.batch, device=self.latency.lookup.device)

    def of_energy(self) -> ExpectedCost:
        joules = counted(self.latency)
        return self.of_ops(lambda op: joules.price(op) / self.workload.batch)


_EXPECTED: Mapping[str, Callable[[ExpectedCosts], nn.Module]] = {
    "decode": lambda costs: costs.of_phase("decode"),
    "prefill": lambda costs: costs.of_phase("prefill"),
    "memory": ExpectedCosts.of_memory,
    "disk": lambda costs: costs.of_ops(op_disk),
    "params": lambda costs: costs.of_ops(op_params),
    "1/params": lambda costs: Quotient(1.0, costs["params"], 1.0),
    "energy": ExpectedCosts.of_energy,
    "power": lambda costs: Quotient(costs["energy"], costs["decode"], float(costs.workload.batch)),
}


class Quotient(nn.Module):
    """`factor x top / bottom` of two expected costs; `top` may be a number."""

    def __init__(self, top: nn.Module | float, bottom: nn.Module, factor: float):
        super().__init__()
        self.top, self.bottom, self.factor = top, bottom, factor

    def forward(self, choices: Choices) -> Tensor:
        top = self.top(choices) if isinstance(self.top, nn.Module) else self.top
        return self.factor * top / self.bottom(choices)
