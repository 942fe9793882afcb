"""The integer programme against brute force over every subnet, and against the knapsack."""

from __future__ import annotations

import ctypes
import random
from functools import partial

import numpy as np
import pytest
from made_up import every_pick, made_up_device
from replay_bench import bench, by_block, one_block, random_damage
from search_llama import tiny_space

from hwfit.search.costs import predicted_cost
from hwfit.search.discretise import WIDTHS, Problem
from hwfit.search.knapsack import Decisions, Grid, best_by_damage
from hwfit.search.strategies.additive import bound, optimum
from hwfit.search.strategies.base import within
from hwfit.search.strategies.integer_programme import by_damage
from hwfit.search.strategies.picks import harm, whole
from hwfit.search.strategies.quiet import without_stdout
from hwfit.workload import Workload


def widths(picked) -> tuple[int, ...]:
    return tuple(getattr(picked, axis) for axis in WIDTHS)


@pytest.mark.parametrize("seed", range(4))
def test_gives_the_best_of_all_subnets_at_every_widths_best_first(seed: int):
    of = bench(one_block(), seed)
    costs = of.costs(whole(of.space, 1))
    problem = of.problem({"decode": 1.02 * costs["decode"], "prefill": 0.8 * costs["prefill"], "memory": 1e9})
    best: dict[tuple[int, ...], float] = {}
    for picked in every_pick(of.space):
        if within(problem.cost_of(picked), problem.limits):
            best[widths(picked)] = min(best.get(widths(picked), 1e9), harm(picked, problem))
    found = list(by_damage(problem))
    assert best
    assert [value for value, _ in found] == pytest.approx(sorted(best.values()), abs=1e-9)
    for value, picked in found:
        assert within(problem.cost_of(picked), problem.limits)
        assert value == pytest.approx(harm(picked, problem))
        assert value == pytest.approx(best[widths(picked)])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("metrics", [("decode",), ("decode", "prefill", "memory")])
def test_is_never_worse_than_the_knapsack(seed: int, metrics: tuple[str, ...]):
    of = bench(tiny_space("w32", "w8a8", "w4a8"), seed)
    costs = of.costs(whole(of.space, 2))
    for share in (0.6, 0.8, 1.1):
        problem = of.problem({m: share * costs[m] for m in metrics})
        rough, exact = best_by_damage(problem), next(by_damage(problem), None)
        assert rough is None or exact is not None
        if rough and exact:
            assert exact[0] <= harm(rough, problem) + 1e-9


def test_what_c_prints_meanwhile_is_dropped_and_nothing_else(capfd: pytest.CaptureFixture[str]):
    libc = ctypes.CDLL(None)
    print("before")
    libc.puts(b"also before")
    with without_stdout():
        libc.puts(b"debugging")
    libc.puts(b"after")
    libc.fflush(None)
    print("at last", flush=True)
    assert capfd.readouterr().out.split("\n") == ["before", "also before", "after", "at last", ""]


def test_costs_and_damages_add_up_at_given_widths():
    for space in (tiny_space("w32", "w8a8", "w4a8"), by_block()):
        of, rng = bench(space, 2), random.Random(0)
        problem = of.problem({"decode": 1e-6, "prefill": 1e-4, "memory": 1e5})
        grid = Grid.of(problem, None)
        for choice in grid.every_width(problem)[::7]:
            left = Decisions.at(grid.start(choice, space), grid, problem)
            assert left is not None
            chosen = np.array([rng.randrange(3) for _ in range(len(left.harm))])
            picked = left.picked(chosen)
            items = np.arange(len(chosen))
            used = left.here + left.moved[:, items, chosen].sum(1)
            costs = problem.cost_of(picked)
            assert used == pytest.approx([costs[m] / limit for m, limit in problem.limits.items()], rel=1e-9)
            damage = grid.width_harm(choice) + left.harm[items, chosen].sum()
            assert damage == pytest.approx(harm(picked, problem))


def test_bound_is_below_the_optimum_and_nothing_is_found_where_nothing_fits():
    of = bench(tiny_space("w32", "w8a8", "w4a8"), 1)
    costs = of.costs(whole(of.space, 2))

    def at(share: float) -> tuple[Decisions, Problem]:
        problem = of.problem({"decode": share * costs["decode"]})
        grid = Grid.of(problem, None)
        left = Decisions.at(grid.start((0,) * len(WIDTHS), of.space), grid, problem)
        assert left is not None
        return left, problem

    least, best = bound(at(1.1)[0]), optimum(*at(1.1))
    assert least is not None
    assert best is not None
    assert 0 < least <= best[0] + 1e-9
    assert bound(at(0.01)[0]) is None
    assert optimum(*at(0.01)) is None
    assert not list(by_damage(at(0.01)[1]))


@pytest.mark.parametrize("name", ["power", "1/params"])
def test_limits_that_do_not_add_up_are_kept_too(name: str):
    """Power is energy over time, a floor on parameters a reciprocal; both against every subnet."""
    space = one_block()
    latency, workload, order = made_up_device(1), Workload(), (0,)
    cost = partial(predicted_cost, latency, workload, metrics=("decode", "power", "1/params"))
    every = list(every_pick(space))
    costs = [cost(p.subnet(space, order)) for p in every]
    limits = {m: sorted(c[m] for c in costs)[len(costs) // 3] for m in ("decode", name)}
    problem = Problem(random_damage(space, 0), space, order, cost, limits)
    meeting = [harm(p, problem) for p, c in zip(every, costs, strict=True) if within(c, limits)]
    found = next(by_damage(problem), None)
    assert bool(meeting) == bool(found)
    assert found is None or found[0] == pytest.approx(min(meeting))
