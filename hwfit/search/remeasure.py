"""Re-measuring: found subnets are timed on the device, and picked again for what it takes over what is predicted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import copysign, exp, log, sqrt
from statistics import fmean, median

from hwfit.search.budget import EXACT
from hwfit.search.discretise import Picked
from hwfit.search.joint import NOISE, Found, Searcher, repaired
from hwfit.search.knapsack import best_by_damage
from hwfit.subnet import Subnet

DOUBT, SLACK = 0.6, 0.2
"""Shares of what the aim leaves of a budget: up to which a disagreement may be noise, and that may stay unused on top
of it before a subnet is picked again."""
BEYOND = (0.975, 1.0, 1.05, 1.1, 1.2, 1.5)
"""Shares aimed at, one after the other, where the space has no subnet for the one asked for."""
Pick = Callable[[Searcher, Found, Mapping[str, float]], Found]
"""(searcher, found, metric -> factor by which it is slower than predicted) -> the subnet to have instead."""


def aimed(searcher: Searcher, found: Found, slower: Mapping[str, float]) -> Found:
    """Picked again for a device that takes `slower[metric]` times what is predicted, to use the share of each limit
    that the settings aim at, or the least more of it that the space has a subnet for."""
    first = searcher.settings.aim
    for aim in (first, *(share for share in BEYOND if share > first)):
        limits = {m: aim_of(m, aim) * limit / slower.get(m, 1.0) for m, limit in found.budget.limits}
        if picked := _picked_again(searcher, found, limits):
            return replace(found, picked=picked, subnet=picked.subnet(searcher.study.space, searcher.order))
    return found


def _picked_again(searcher: Searcher, found: Found, limits: Mapping[str, float]) -> Picked | None:
    problem, precisions = searcher.problem(limits, found.freedom), found.freedom.precisions
    allowed = None if precisions else [found.picked.precision[0][0]]
    ideal = best_by_damage(problem) if found.guided and precisions else None
    picks = [again for p in (found.picked, ideal) if p and (again := repaired(p, problem, allowed))]
    return min(dict.fromkeys(picks), key=searcher.loss_of, default=None)


def aim_of(metric: str, aim: float) -> float:
    """The share of a limit to use: all of what the subnet alone decides."""
    return max(1.0, aim) if metric in EXACT else aim


def remeasure(
    searcher: Searcher,
    found: Mapping[str, Found],
    measure: Callable[[Mapping[str, Subnet]], Mapping[str, Mapping[str, float]]],
    rounds: int,
    pick: Pick = aimed,
) -> dict[str, Found]:
    """Deploy every found subnet, time it, and pick again for those over their budget or well below it.

    All `rounds` so far decide what the device takes over what is predicted (see `Disagreement`).
    """
    out, aim = dict(found), searcher.settings.aim
    seen = Disagreement(min(NOISE, DOUBT * (1 - aim)))
    for _ in range(rounds):
        measured = measure({name: f.subnet for name, f in out.items()})
        predicted = {name: searcher.cost(f.subnet) for name, f in out.items()}
        for name in out:
            seen.add(name, predicted[name], measured[name])
        again = {}
        for name, f in out.items():
            slower = seen.slower(name)
            used = max(predicted[name][m] * slower.get(m, 1.0) / (aim_of(m, aim) * of) for m, of in f.budget.limits)
            if not 1 - SLACK * (1 - aim) / aim <= used <= 1 and (moved := pick(searcher, f, slower)).subnet != f.subnet:
                again[name] = moved
        if not again:
            break
        out |= again
    return out


class Disagreement:
    """Measured over predicted, as far as it is more than noise.

    What all subnets share (their median) is believed once it exceeds `noise` / sqrt(rounds), and so is by how much one
    is slower than that: less would give a subnet's milliseconds away, or others', for one slow minute. One that is
    faster than the others was lucky: what it seems to leave of its budget is not spent.
    """

    def __init__(self, noise: float = NOISE) -> None:
        self.noise = noise
        self._logs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))  # metric -> name -> logs

    def add(self, name: str, predicted: Mapping[str, float], measured: Mapping[str, float]) -> None:
        for metric, value in measured.items():
            self._logs[metric][name].append(log(value / predicted[metric]))

    def slower(self, name: str) -> dict[str, float]:
        """`metric -> factor` by which `name` takes longer on the device than predicted."""
        out = {}
        for metric, logs in self._logs.items():
            rounds = len(logs[name])
            shared = median(value for values in logs.values() for value in values)
            own = max(0.0, fmean(logs[name]) - shared)
            out[metric] = exp(self._believed(shared, rounds) + self._believed(own, rounds))
        return out

    def _believed(self, value: float, rounds: int) -> float:
        return copysign(max(0.0, abs(value) - self.noise / sqrt(rounds)), value)
