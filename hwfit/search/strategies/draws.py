"""Draws: random picks that use most of what the limits allow."""

from __future__ import annotations

import random

from hwfit.errors import HwfitError
from hwfit.search.discretise import Picked, Problem, random_pick
from hwfit.search.joint import repaired
from hwfit.search.strategies.base import used, within
from hwfit.search.strategies.genome import Genome

LEAST_USED = 0.75
ATTEMPTS = 200
"""Draws before one is shrunk instead, and changes tried in shrinking before the damage model finishes it."""
PORTION = 0.1
"""Share of the precisions that one change moves to another."""


def fitting(problem: Problem, rng: random.Random) -> Picked:
    """A pick within the limits, using at least `LEAST_USED` of one where such are not rare.

    Raises `HwfitError` if nothing meets them.
    """
    for _ in range(ATTEMPTS):
        picked = random_pick(problem.space, rng)
        if LEAST_USED <= used(problem.cost_of(picked), problem.limits) <= 1:
            return picked
    return shrunk(random_pick(problem.space, rng), problem, rng)


def shrunk(picked: Picked, problem: Problem, rng: random.Random) -> Picked:
    """`picked` changed at random, as long as that lowers what exceeds the limits, until they hold.

    Raises `HwfitError` if nothing meets them.
    """
    genome, excess = Genome(problem.space), _excess(picked, problem)
    for _ in range(ATTEMPTS):
        if excess == 0:
            return picked
        changed = genome.decode(_changed(genome, genome.encode(picked), rng))
        if (left := _excess(changed, problem)) < excess:
            picked, excess = changed, left
    finished = picked if excess == 0 else repaired(picked, problem)
    if finished is None:
        raise HwfitError(f"no subnet of this space meets {dict(problem.limits)}; allowed: a larger budget")
    return finished


def _excess(picked: Picked, problem: Problem) -> float:
    costs = problem.cost_of(picked)
    if within(costs, problem.limits):
        return 0.0
    return sum(max(0.0, costs[metric] / limit - 1) for metric, limit in problem.limits.items())


def _changed(genome: Genome, codes: tuple[int, ...], rng: random.Random) -> list[int]:
    """One width a step away, mostly smaller, or some precisions at another one."""
    out = list(codes)
    if rng.random() < 0.5:
        gene = rng.randrange(genome.widths)
        out[gene] = min(max(out[gene] + rng.choice((1, 1, 1, -1)), 0), int(genome.sizes[gene]) - 1)
        return out
    to = rng.random()
    for gene in range(genome.widths, len(out)):
        if rng.random() < PORTION:
            out[gene] = int(to * int(genome.sizes[gene]))
    return out
