"""Methods: what a joint search is compared with. Each gives one subnet for every share of a budget that is asked for.

    joint              widths, depth and precisions together
    sequential         the architecture at full precision first, then one precision for all of it
    bits               the whole architecture, a precision for each linear
    quantise first     one precision for all first, then the architecture at it
    random             the best of some random subnets

All choose by the same measured loss of the same supernet.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence

from hwfit.errors import HwfitError
from hwfit.search.budget import Budget
from hwfit.search.discretise import WIDTHS, Picked, random_pick
from hwfit.search.joint import WIDTHS_ONLY, Found, Freedom, Searcher
from hwfit.search.knapsack import best_by_damage
from hwfit.search.relax import PRECISIONS, Architecture

Ladder = dict[float, Found]
"""By share of the budget; shares that a method has nothing for are left out."""
Method = Callable[[Searcher, str, Budget, Sequence[float], str], Ladder]
"""(searcher, name, budget, shares, checkpoint key); raises `HwfitError` if nothing meets the budget."""

BITS_ONLY = Freedom(widths=())
DRAWS = 48
ATTEMPTS = 200
"""Random subnets judged, and how many are drawn for each of them at most to find one that uses the budget."""
LEAST_USED = 0.75


def joint(searcher: Searcher, name: str, budget: Budget, shares: Sequence[float], key: str) -> Ladder:
    return _ladder(searcher, searcher.find(name, budget, key), shares)


def sequential(searcher: Searcher, name: str, budget: Budget, shares: Sequence[float], key: str) -> Ladder:
    whole = searcher.find_unquantised(name, budget, key)
    lower = _ladder(searcher, whole, shares)
    return _held(lower, lambda share: searcher.quantised(lower[share], budget.scaled(share)))


def bits(searcher: Searcher, name: str, budget: Budget, shares: Sequence[float], key: str) -> Ladder:
    if best_by_damage(searcher.problem(budget.as_dict(), BITS_ONLY)) is None:
        raise HwfitError(f"no precisions of the whole architecture meet {budget}; allowed: a larger budget")
    architecture = Architecture(searcher.study.space)
    architecture.freeze(WIDTHS, 0)
    found = searcher.search(name, budget, budget.as_dict(), architecture, key, BITS_ONLY)
    return _ladder(searcher, found, shares)


def quantise_first(searcher: Searcher, name: str, budget: Budget, shares: Sequence[float], key: str) -> Ladder:
    ladders = []
    for index in searcher.uniform:
        if best_by_damage(searcher.problem(budget.as_dict(), WIDTHS_ONLY), [index]) is None:
            continue
        architecture = Architecture(searcher.study.space)
        architecture.freeze(PRECISIONS, index)
        found = searcher.search(f"{name} {index}", budget, budget.as_dict(), architecture, key, WIDTHS_ONLY)
        ladders.append(_ladder(searcher, found, shares))
    if not ladders:
        raise HwfitError(f"no architecture at one precision meets {budget}; allowed: a larger budget")
    best = {s: [ladder[s] for ladder in ladders if s in ladder] for s in shares}
    return {s: min(found, key=lambda f: searcher.loss_of(f.picked)) for s, found in best.items() if found}


def best_random(searcher: Searcher, name: str, budget: Budget, shares: Sequence[float], key: str) -> Ladder:
    problem, rng = searcher.problem(budget.as_dict()), random.Random(f"{searcher.settings.seed} {name}")
    pool: dict[Picked, float] = {}
    for _ in range(DRAWS * ATTEMPTS):
        picked = random_pick(searcher.study.space, rng)
        costs = searcher.cost(picked.subnet(searcher.study.space, searcher.order))
        used = max(costs[m] / limit for m, limit in problem.limits.items())
        if LEAST_USED <= used <= 1:
            pool[picked] = used
        if len(pool) == DRAWS:
            break
    if not pool:
        raise HwfitError(f"{DRAWS * ATTEMPTS} random subnets, none of which meets {budget}; allowed: a larger budget")
    out = {}
    for share in shares:
        fitting = [p for p, used in pool.items() if used <= share]
        if fitting:
            best = min(fitting, key=searcher.loss_of)
            subnet = best.subnet(searcher.study.space, searcher.order)
            out[share] = Found(name, budget.scaled(share), best, subnet, ())
    return out


METHODS: Mapping[str, Method] = {
    "joint": joint,
    "sequential": sequential,
    "bits": bits,
    "quantise_first": quantise_first,
    "random": best_random,
}


def _ladder(searcher: Searcher, found: Found, shares: Sequence[float]) -> Ladder:
    return _held(shares, lambda share: found if share == 1 else searcher.lowered(found, share))


def _held(shares: Iterable[float], find: Callable[[float], Found]) -> Ladder:
    """What is found for each share; those below everything there is are left out."""
    out: Ladder = {}
    for share in shares:
        try:
            out[share] = find(share)
        except HwfitError:
            if not out:
                raise
    return out
