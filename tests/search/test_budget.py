"""Budgets as text, infeasible ones, and the constraint that enforces them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hwfit.errors import HwfitError
from hwfit.search.budget import Budget, refuse_infeasible
from hwfit.search.lagrangian import AugmentedLagrangian


def test_units_are_converted_to_seconds_and_bytes():
    budget = Budget.parse(["decode=6ms", "prefill=0.12s", "memory=90MB"])
    assert budget.as_dict() == {"decode": 0.006, "prefill": 0.12, "memory": 90e6}


def test_every_bad_budget_is_reported_at_once():
    with pytest.raises(HwfitError) as error:
        Budget.parse(["latency=6ms", "decode=6", "memory=-3MB", "prefill=1s", "prefill=2s"])
    text = "\n".join(error.value.problems)
    assert len(error.value.problems) == 4
    for part in ("'latency' is unknown", "'6' is no positive number", "-3MB", "prefill is given twice"):
        assert part in text


def test_budget_below_the_fastest_subnet_says_what_the_fastest_costs():
    with pytest.raises(HwfitError, match=r"decode=1ms is below the fastest subnet of this space, 1\.3ms"):
        refuse_infeasible([Budget.parse(["decode=1ms"])], {"decode": 1.3e-3, "prefill": 1.0, "memory": 1.0})


@given(st.floats(0.2, 3.0), st.floats(0.0, 2.0))
def test_penalty_has_the_multiplier_as_its_slope_at_the_limit(limit: float, mu: float):
    constraint = AugmentedLagrangian({"decode": limit}, stiffness=10.0, multipliers={"decode": mu})
    cost = torch.tensor(limit, dtype=torch.float64, requires_grad=True)
    constraint.penalty({"decode": cost}).backward()
    assert float(cost.grad) == pytest.approx(mu / limit, rel=1e-6, abs=1e-9)


def test_constrained_minimum_is_found_by_alternating_steps():
    """minimise (x - 3)^2 subject to x <= 1: the solution is 1 and the multiplier of the relative form is 4."""
    constraint = AugmentedLagrangian({"x": 1.0}, stiffness=5.0)
    x = torch.tensor(3.0, requires_grad=True)
    optimizer = torch.optim.SGD([x], lr=0.05)
    for _ in range(400):
        loss = (x - 3) ** 2 + constraint.penalty({"x": x})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        constraint.update({"x": x.detach()}, rate=0.1)
    assert float(x.detach()) == pytest.approx(1.0, abs=1e-3)
    assert constraint.multipliers["x"] == pytest.approx(4.0, abs=0.05)
