"""Guided search: gradients and the damage model say where to look, measured losses which way to walk from there."""

from __future__ import annotations

from collections.abc import Sequence

from hwfit.errors import HwfitError
from hwfit.search.discretise import Picked, Problem
from hwfit.search.joint import FREE, Freedom, repaired
from hwfit.search.knapsack import best_by_damage, neighbours
from hwfit.search.strategies.base import Limits, Part, Planned, least
from hwfit.search.strategies.picks import harm
from hwfit.subnet import LINEARS

NEIGHBOURS = 6
"""Neighbouring widths tried at each step of the walk."""


def guided_search(
    strategy: Planned, limits: Limits, freedom: Freedom = FREE, precision: int | None = None, most: int = 1 << 30
) -> Part:
    """The best of what a descent and the damage model find within `limits`, then a walk to better neighbours.

    Damages do not quite add up, and the walk measures where they matter. It ends after the bench's `trials` or where no
    neighbour is better; without `trials`, it goes on from the next best pick as long as there are evaluations. About
    `most` scores at most. Raises `HwfitError` if nothing meets `limits`.
    """
    problem, bench = strategy.bench.problem(limits, freedom), strategy.bench
    starts = strategy.starts.get(precision) or bench.descend(limits, freedom, precision)
    first = contenders(problem, starts, bench.candidates, precision)[: max(1, most)]
    best = yield from least(first)
    if bench.trials is None:
        return (yield from _wander(strategy, problem, first, precision, most))
    best = yield from _walk(problem, best, precision, min(bench.trials, most - len(first)))
    strategy.ends[precision] = [best]
    return best


def _walk(problem: Problem, picked: Picked, precision: int | None, trials: int) -> Part:
    """To neighbouring widths, precisions solved anew for each, while the loss falls."""
    left, tried = trials, {picked}
    while left > 0:
        new = [p for p in _near(picked, problem, precision) if p not in tried][: min(left, NEIGHBOURS)]
        left, tried = left - len(new), tried | set(new)
        best = yield from least([picked, *new])
        if best == picked:
            break
        picked = best
    return picked


def _wander(strategy: Planned, problem: Problem, first: Sequence[Picked], precision: int | None, most: int) -> Part:
    """A walk that goes on from the best pick that has neighbouring widths left to try."""
    losses: dict[Picked, float] = {}
    ahead: dict[Picked, list[Picked]] = {}  # neighbours not tried yet, the most promising first
    new = list(first)
    while new:
        scored = yield new
        losses |= {p: s.loss for p, s in zip(new, scored, strict=True)}
        strategy.ends[precision] = [min(losses, key=losses.__getitem__)]
        new, room = [], min(NEIGHBOURS, most - len(losses))
        for picked in sorted(losses, key=losses.__getitem__):
            if room <= 0 or new:
                break
            if picked not in ahead:
                ahead[picked] = _near(picked, problem, precision)
            new = [p for p in ahead[picked] if p not in losses][:room]
    return strategy.ends[precision][0]


def _near(picked: Picked, problem: Problem, precision: int | None) -> list[Picked]:
    return neighbours(picked, problem, None if precision is None else [precision])


def contenders(problem: Problem, starts: Sequence[Picked], own: int, precision: int | None = None) -> list[Picked]:
    """The repaired `starts` and up to `own` picks of the damage model: its best over all precisions and at each single
    one, which a joint search contains. Raises `HwfitError` if nothing meets the limits."""
    # with one pick asked for, a single precision never has less damage than the best over all
    single = [[p] for p in problem.space.options(LINEARS[0])] if own > 1 else []
    allowed = None if precision is None else [precision]
    ideal = [best_by_damage(problem, options) for options in ([None, *single] if allowed is None else [allowed])]
    picks = [*starts, *sorted((p for p in ideal if p), key=lambda p: harm(p, problem))[:own]]
    meeting = [again for p in picks if (again := repaired(p, problem, allowed))]
    if not meeting:
        raise HwfitError(f"no subnet of this space meets {dict(problem.limits)}; allowed: a larger budget")
    return list(dict.fromkeys(meeting))
