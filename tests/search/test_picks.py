"""Knapsack and repair under several limits of made-up devices, against a list of every subnet of a small space."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made_up import every_pick, made_up_device, random_damage, small_spaces, total_damage

from hwfit.errors import HwfitError
from hwfit.search.budget import METRICS, Budget, needed
from hwfit.search.costs import predicted_cost
from hwfit.search.discretise import Picked, Problem, repair
from hwfit.search.knapsack import best_by_damage, neighbours
from hwfit.workload import Workload

WORKLOAD, SPACES = Workload(prompt=16, context=16), small_spaces()
DEVICES = [made_up_device(10 * i) for i in range(2)]
ROUNDING = 1e-9


@dataclass(frozen=True)
class Case:
    """A problem with every pick of its space and what each costs."""

    problem: Problem
    picks: list[Picked]
    costs: list[dict[str, float]]

    def damage(self, pick: Picked) -> float:
        space = self.problem.space
        return total_damage(self.problem.damage, pick, self.problem.block_order[: space.depth[pick.depth]])


@cache
def all_of(space: int, device: int) -> tuple[list[Picked], list[dict[str, float]]]:
    picks, order = every_pick(SPACES[space]), range(SPACES[space].shape.blocks)
    return picks, [predicted_cost(DEVICES[device], WORKLOAD, pick.subnet(SPACES[space], order)) for pick in picks]


@st.composite
def cases(draw):
    """A space, a device, limits (mostly what some subnet takes, so that they can be kept together), and damages."""
    space, device = draw(st.integers(0, len(SPACES) - 1)), draw(st.integers(0, len(DEVICES) - 1))
    picks, costs = all_of(space, device)
    names = draw(st.lists(st.sampled_from(METRICS), min_size=1, max_size=4, unique=True))
    there = costs[draw(st.integers(0, len(costs) - 1))]
    slack = draw(st.sampled_from([0.97, 1.0001, 1.02, 1.2]))
    limits = {name: there[name] * slack for name in names}
    harm = random_damage(SPACES[space], draw(st.integers(0, 1000)))
    cost = partial(predicted_cost, DEVICES[device], WORKLOAD, metrics=needed(limits))
    return Case(Problem(harm, SPACES[space], range(SPACES[space].shape.blocks), cost, limits), picks, costs)


@settings(max_examples=30, deadline=None)
@given(cases())
def test_the_pick_keeps_all_limits_and_is_near_the_best_of_all(case):
    problem = case.problem
    budget = Budget(tuple(problem.limits.items()))
    harm = np.array([case.damage(pick) for pick in case.picks])
    fits = np.array([budget.within(c) for c in case.costs])
    got = best_by_damage(problem)
    if not fits.any():
        assert got is None or budget.within(problem.cost_of(got), ROUNDING)
        return
    assert got is not None
    assert budget.within(problem.cost_of(got), ROUNDING)
    rows = problem.damage.precision.sum(1) if problem.space.precision_per == "block" else problem.damage.precision
    step = float(max(rows.max(), problem.damage.lm_head.max()))
    if problem.space.mlp_per_block:
        step += float(problem.damage.mlp.max() + 2 * problem.damage.precision.max())
    assert case.damage(got) <= harm[fits].min() + len(problem.limits) * step
    for near in neighbours(got, problem):
        assert budget.within(problem.cost_of(near), ROUNDING)


@settings(max_examples=30, deadline=None)
@given(cases(), st.integers(0, 10**6))
def test_repair_from_anywhere_keeps_all_limits_or_says_that_it_cannot(case, start):
    budget, pick = Budget(tuple(case.problem.limits.items())), case.picks[start % len(case.picks)]
    try:
        got = repair(pick, case.problem)
    except HwfitError:
        return
    assert budget.within(case.problem.cost_of(got), ROUNDING)
    if budget.within(case.problem.cost_of(pick)):
        assert case.damage(got) <= case.damage(pick) + 1e-6


@settings(max_examples=30, deadline=None)
@given(cases())
def test_what_the_knapsack_finds_is_not_made_worse_by_repair(case):
    got = best_by_damage(case.problem)
    assume(got is not None)
    after = repair(got, case.problem)
    assert Budget(tuple(case.problem.limits.items())).within(case.problem.cost_of(after), ROUNDING)
    assert case.damage(after) <= case.damage(got) + 1e-6
