"""The whole model at one precision that a search has to beat."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwfit.errors import HwfitError
from hwfit.kernels.op import Op
from hwfit.latency_models.estimate import Estimate
from hwfit.latency_models.whole import WholeModel
from hwfit.search.baseline import fastest_uniform
from hwfit.space import Space
from hwfit.subnet import ModelShape, Subnet
from hwfit.workload import Workload

SPACE = Space.default(ModelShape(192, 6, 3, 32, 256, 6, 512), ("w32", "w8a8", "w4a8g32", "w2a8g32"), "w8a8", 32)
DECODE, PREFILL = Workload().decode, Workload().prefill


class Streams:
    """One row takes as long as its weights are large; of many rows, groups cost more than anything."""

    device, precisions = "cpu-none", set()

    def price(self, op: Op) -> float:
        if op.kind != "linear":
            return 1e-6
        bits, grouped = int(op.precision[1:].split("a")[0]), "g" in op.precision
        return 1e-9 * (100 * grouped + bits if op.m > 1 else bits) * op.n

    def predict(self, op: Op) -> Estimate:
        return Estimate(self.price(op), self.price(op), self.price(op), "measured")


LATENCY = WholeModel(Streams())


def test_the_fastest_depends_on_the_phase_and_has_four_bits_or_more():
    assert fastest_uniform(SPACE, LATENCY, DECODE) == Subnet.whole(SPACE.shape, "w4a8g32", "w8a8")
    assert fastest_uniform(SPACE, LATENCY, PREFILL) == Subnet.whole(SPACE.shape, "w8a8", "w8a8")


def test_an_lm_head_that_may_not_have_the_precision_has_its_own_fastest():
    fixed = replace(SPACE, linears=SPACE.precisions[2:], lm_head=SPACE.precisions[:2])
    found = fastest_uniform(fixed, LATENCY, DECODE)
    assert found == replace(Subnet.whole(SPACE.shape, "w4a8g32", "w8a8"), lm_head=SPACE.precisions[1])


def test_a_space_without_such_a_precision_is_refused():
    low = replace(SPACE, linears=(SPACE.precisions[0], SPACE.precisions[3]))
    with pytest.raises(HwfitError, match="offers w32, w2a8g32 for its linears"):
        fastest_uniform(low, LATENCY, DECODE)
