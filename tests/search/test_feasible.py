"""Infeasible budgets against all subnets of a small space: what is refused cannot be kept, what is offered can."""

from __future__ import annotations

import re
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import every_pick, made_up_device, small_spaces

from hwfit.errors import HwfitError
from hwfit.search.budget import METRICS, Budget
from hwfit.search.costed import Costed
from hwfit.search.costs import ExpectedCosts, predicted_cost
from hwfit.search.feasible import Nearby, refuse_infeasible
from hwfit.space import Space
from hwfit.workload import Workload

DEVICE, WORKLOAD = made_up_device(7), Workload(batch=2, prompt=16, context=16)
SPACES = small_spaces()
SPACE = SPACES[0]


@cache
def costs_of(index: int) -> list[dict[str, float]]:
    """Of every subnet of a space."""
    space = SPACES[index]
    order = range(space.shape.blocks)
    subnets = dict.fromkeys(pick.subnet(space, order) for pick in every_pick(space))
    return [predicted_cost(DEVICE, WORKLOAD, subnet) for subnet in subnets]


EVERYTHING = costs_of(0)


def refused(budget: Budget, space: Space = SPACE) -> str | None:
    try:
        refuse_infeasible([budget], space, DEVICE, WORKLOAD)
    except HwfitError as error:
        return "\n".join(error.problems)
    return None


@st.composite
def budgets(draw):
    """A space, and limits around what its subnets cost, so that about half can be kept."""
    index = draw(st.integers(0, len(SPACES) - 1))
    names = draw(st.lists(st.sampled_from(METRICS), min_size=1, max_size=4, unique=True))
    limits = []
    for name in names:
        costs = sorted(c[name] for c in costs_of(index))
        limits.append((name, costs[draw(st.integers(0, len(costs) // 2))] * draw(st.sampled_from([0.9, 1.0001, 1.1]))))
    return index, Budget(tuple(limits))


@settings(max_examples=25, deadline=None)
@given(budgets())
def test_refused_exactly_when_no_subnet_keeps_it_and_what_is_offered_can_be_kept(case):
    index, budget = case
    everything, text = costs_of(index), refused(budget, SPACES[index])
    least = min(budget.used(costs) for costs in everything)
    if text is None:
        assert least <= 1 + 1e-5
        return
    assert least > 1 - 1e-9
    if "closest:" not in text:
        return
    scaled, *alone = text.split("closest: ")[1].split("; or ")
    match = re.fullmatch(r"(.*) \(x([\d.e+]+) at most\)", scaled)
    assert match
    assert float(match[2]) == pytest.approx(least, rel=6e-3)
    assert any(Budget.parse(match[1].split()).within(costs, 1e-9) for costs in everything)
    for one in alone:
        given = Budget.parse([one.removesuffix(" with the rest as they are")])
        rest = [(m, limit) for m, limit in budget.limits if m != given.limits[0][0]]
        assert any(Budget((*rest, *given.limits)).within(costs, 1e-9) for costs in everything)
        ((metric, offered),) = given.limits
        best = min(costs[metric] for costs in everything if all(costs[m] <= limit * (1 + 1e-9) for m, limit in rest))
        assert offered == pytest.approx(best, rel=2e-3)


@pytest.mark.parametrize("metric", METRICS)
def test_one_limit_below_all_subnets_says_what_the_least_is(metric: str):
    least = min(costs[metric] for costs in EVERYTHING)
    text = refused(Budget(((metric, 0.5 * least),)))
    assert text is not None
    value = re.search(r"any subnet of this space takes, (\S+);", text)
    assert value
    name = "params>=" if metric == "1/params" else f"{metric}="
    assert Budget.parse([name + value[1]]).limits[0][1] == pytest.approx(least, rel=2e-3)
    assert refused(Budget(((metric, 1.01 * least),))) is None


def test_each_alone_but_not_together():
    """The smallest subnet is the fastest, and the largest is the only one with so many weights."""
    fast, many = min(c["decode"] for c in EVERYTHING), min(c["1/params"] for c in EVERYTHING)
    pair = Budget((("1/params", many * 1.001), ("decode", fast * 1.001)))
    for limit in pair.limits:
        assert refused(Budget((limit,))) is None
    text = refused(pair)
    assert text is not None
    assert "no subnet of this space keeps all of these at once" in text
    assert "decode=" in text.split("; or ")[-1]


def test_the_costs_of_the_closest_are_a_subnets():
    limits = {"decode": 1e-3, "prefill": 1e-3, "power": 0.5}
    found = Nearby(Costed.of(ExpectedCosts(SPACE, (0,), DEVICE, WORKLOAD), limits)).lowest(limits)
    assert found is not None
    assert any(all(c[m] == pytest.approx(found[m], rel=1e-9) for m in found) for c in EVERYTHING)
