"""Sequential baselines: what a pipeline that decides one thing after the other arrives at."""

from __future__ import annotations

from hwfit.errors import HwfitError
from hwfit.search.discretise import with_precision
from hwfit.search.joint import WIDTHS_ONLY, Freedom, repaired
from hwfit.search.knapsack import best_by_damage
from hwfit.search.strategies.base import Limits, Plan, Planned, least, together, within
from hwfit.search.strategies.guided import guided_search
from hwfit.search.strategies.picks import most_precise, uniform_precisions, whole
from hwfit.subnet import LINEARS

BITS_ONLY = Freedom(widths=())
NOTHING = Freedom(widths=(), precisions=False)


class Sequential(Planned):
    """The architecture at full precision, then the best of one precision for all of it.

    At full precision the limits are those that leave the original's share of its cost: times full over quantised cost
    of the original architecture. What is asked for there does not meet the limits, and is not meant to.
    """

    freedom = WIDTHS_ONLY
    paced = True

    def plan(self) -> Plan:
        space, options = self.bench.space, uniform_precisions(self.bench.space)
        full = most_precise(space)
        found = yield from guided_search(self, self.wide(), WIDTHS_ONLY, full, self.evaluations - len(options))
        problem, quantised = self.problem(), []
        for index in options:
            if again := repaired(with_precision(found, index, space), problem, [index]):
                quantised.append(again)
        if not quantised:
            raise HwfitError(f"no uniform precision meets {self.limits} by widths alone; allowed: a larger budget")
        yield from least(quantised)

    def wide(self) -> Limits:
        space, cost = self.bench.space, self.problem().cost_of
        full, *rest = (cost(whole(space, i)) for i in (most_precise(space), *uniform_precisions(space)))
        return {m: limit * full[m] / min((c[m] for c in rest), default=full[m]) for m, limit in self.limits.items()}


class QuantiseFirst(Planned):
    """One precision for all of it first, then the architecture at that: every precision in turn, the best is kept."""

    freedom = WIDTHS_ONLY

    def plan(self) -> Plan:
        problem = self.problem()
        meeting = [i for i in uniform_precisions(self.bench.space) if best_by_damage(problem, [i])]
        plans = [_walked(self, index) for index in meeting]
        if not plans:
            raise HwfitError(f"no architecture at one precision meets {self.limits}; allowed: a larger budget")
        yield from together(plans)


class Bits(Planned):
    """The whole architecture, a precision for each linear."""

    freedom = BITS_ONLY

    def plan(self) -> Plan:
        yield from guided_search(self, self.limits, BITS_ONLY)


class Uniform(Planned):
    """The whole architecture at one precision: the best of those that meet the limits."""

    freedom, guided = NOTHING, False

    def plan(self) -> Plan:
        space, cost = self.bench.space, self.problem().cost_of
        every = [whole(space, i) for i in space.options(LINEARS[0])]
        meeting = [p for p in every if within(cost(p), self.limits)]
        if not meeting:
            raise HwfitError(f"no single precision of the whole model meets {self.limits}; allowed: a larger budget")
        yield from least(meeting)


def _walked(strategy: Planned, index: int) -> Plan:
    yield from guided_search(strategy, strategy.limits, WIDTHS_ONLY, index)
