"""Budgets as text, infeasible ones, and the constraint that enforces them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hwfit.errors import HwfitError
from hwfit.search.budget import METRICS, Budget, format_limit, shares
from hwfit.search.lagrangian import AugmentedLagrangian


def test_units_are_converted_to_seconds_and_bytes():
    budget = Budget.parse(["decode=6ms", "prefill=0.12s", "memory=90MB"])
    assert budget.as_dict() == {"decode": 0.006, "prefill": 0.12, "memory": 90e6}


def test_what_people_call_things_is_kept_on_few_metrics():
    texts = [
        "tokens_per_s>=200",
        "ttft=120ms",
        "params<=0.1B",
        "params >= 80M",
        "energy=3mJ",
        "power=0.3kW",
        "disk=1GiB",
    ]
    assert Budget.parse(texts).as_dict() == pytest.approx(
        {
            "decode": 5e-3,
            "prefill": 0.12,
            "params": 1e8,
            "1/params": 1 / 8e7,
            "energy": 3e-3,
            "power": 300.0,
            "disk": 2**30,
        }
    )
    assert Budget.parse(["latency=6ms"]) == Budget.parse(["decode=6ms"])


def test_the_phase_is_the_limited_one_else_decode():
    given = {"ttft=1s": "prefill", "tokens_per_s=9": "decode", "memory=1MB": "decode", "ttft=1s latency=1s": "decode"}
    assert {texts: Budget.parse(texts.split()).phase for texts in given} == given


def test_every_bad_budget_is_reported_at_once():
    bad = {
        "speed=6ms": "'speed' is unknown",
        "decode=6": "'6' is no positive number with one of the units ['us', 'ms', 's']",
        "memory=-3MB": "'-3MB' is no positive number",
        "prefill>=1s": "prefill takes an upper limit; allowed: prefill<=VALUE",
        "tokens_per_s<=3": "tokens_per_s takes a lower limit",
        "params=0M": "'0M' is no positive number",
        "power=3": "'3' is no positive number",
    }
    with pytest.raises(HwfitError) as error:
        Budget.parse([*bad, "disk=1MB", "disk=2MB", "latency=1ms", "tokens_per_s=4"])
    text = "\n".join(error.value.problems)
    assert len(error.value.problems) == len(bad) + 2
    for part in (*bad.values(), "disk is given twice", "tokens_per_s and latency limit the same"):
        assert part in text


@given(st.sampled_from(METRICS), st.floats(1e-3, 1e3), st.booleans())
def test_what_is_shown_reads_back_and_rounds_to_the_looser_side(metric: str, scale: float, loosely: bool):
    typical = {"decode": 5e-3, "prefill": 0.1, "memory": 1e8, "disk": 1e8, "params": 1e8, "1/params": 1e-8}
    limit = scale * typical.get(metric, 1.0)
    ((name, got),) = Budget.parse([format_limit(metric, limit, loosely)]).limits
    assert name == metric
    assert got == pytest.approx(limit, rel=1.1e-3)
    if loosely:
        assert got >= limit * (1 - 1e-9)


@given(st.floats(1.0, 100.0), st.floats(1e-3, 1e-2), st.floats(1e-4, 1.0))
def test_a_share_of_power_is_at_most_one_exactly_when_power_is(power: float, seconds: float, pace: float):
    (share,) = shares({"power": 50.0}, {"power": power, "decode": seconds}, pace)
    assert (share <= 1) == (power <= 50)


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
