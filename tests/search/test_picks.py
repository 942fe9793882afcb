"""Knapsack and repair under several limits of made-up devices, against a list of every subnet of a small space."""

from __future__ import annotations

from functools import partial

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made_up import every_pick, made_up_device, random_damage, small_space, total_damage

from hwfit.errors import HwfitError
from hwfit.search.budget import METRICS, Budget, needed
from hwfit.search.costs import predicted_cost
from hwfit.search.discretise import Problem, repair
from hwfit.search.knapsack import best_by_damage, neighbours
from hwfit.workload import Workload

SPACE, WORKLOAD, ORDER = small_space(), Workload(prompt=16, context=16), (0,)
PICKS = every_pick(SPACE)
DEVICES = [made_up_device(10 * i) for i in range(3)]
COSTS = [[predicted_cost(device, WORKLOAD, pick.subnet(SPACE, ORDER)) for pick in PICKS] for device in DEVICES]
ROUNDING = 1e-9


@st.composite
def cases(draw):
    """A device, limits (mostly what some subnet takes, so that they can be kept together), and damages."""
    device = draw(st.integers(0, len(DEVICES) - 1))
    names = draw(st.lists(st.sampled_from(METRICS), min_size=1, max_size=4, unique=True))
    there = COSTS[device][draw(st.integers(0, len(PICKS) - 1))]
    slack = draw(st.sampled_from([0.97, 1.0001, 1.02, 1.2]))
    limits = {name: there[name] * slack for name in names}
    problem = Problem(
        random_damage(SPACE, draw(st.integers(0, 1000))),
        SPACE,
        ORDER,
        partial(predicted_cost, DEVICES[device], WORKLOAD, metrics=needed(limits)),
        limits,
    )
    return problem, COSTS[device]


@settings(max_examples=40, deadline=None)
@given(cases())
def test_the_pick_keeps_all_limits_and_is_near_the_best_of_all(case):
    problem, costs = case
    budget = Budget(tuple(problem.limits.items()))
    harm = np.array([total_damage(problem.damage, pick, range(1)) for pick in PICKS])
    fits = np.array([budget.within(c) for c in costs])
    got = best_by_damage(problem)
    if not fits.any():
        assert got is None or budget.within(problem.cost_of(got), ROUNDING)
        return
    assert got is not None
    assert budget.within(problem.cost_of(got), ROUNDING)
    best, step = harm[fits].min(), float(max(problem.damage.precision.max(), problem.damage.lm_head.max()))
    assert total_damage(problem.damage, got, range(1)) <= best + len(problem.limits) * step
    for near in neighbours(got, problem):
        assert budget.within(problem.cost_of(near), ROUNDING)


@settings(max_examples=40, deadline=None)
@given(cases(), st.integers(0, len(PICKS) - 1))
def test_repair_from_anywhere_keeps_all_limits_or_says_that_it_cannot(case, start):
    problem, _ = case
    budget = Budget(tuple(problem.limits.items()))
    try:
        got = repair(PICKS[start], problem)
    except HwfitError:
        return
    assert budget.within(problem.cost_of(got), ROUNDING)
    if budget.within(problem.cost_of(PICKS[start])):
        kept = range(1)
        assert total_damage(problem.damage, got, kept) <= total_damage(problem.damage, PICKS[start], kept)


@settings(max_examples=30, deadline=None)
@given(cases())
def test_what_the_knapsack_finds_is_not_made_worse_by_repair(case):
    problem, _ = case
    got = best_by_damage(problem)
    assume(got is not None)
    after = repair(got, problem)
    assert Budget(tuple(problem.limits.items())).within(problem.cost_of(after), ROUNDING)
    assert total_damage(problem.damage, after, range(1)) <= total_damage(problem.damage, got, range(1)) + 1e-9
