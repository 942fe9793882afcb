"""Search: what each setting's table leads to, on damages that all settings share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.choices.setting import Setting
from hwfit.errors import HwfitError
from hwfit.search.costs import ExpectedCosts, predicted_cost
from hwfit.search.discretise import Picked, Problem
from hwfit.search.optimise import SearchSettings
from hwfit.search.sensitivity import Damage
from hwfit.search.strategies import strategy_named
from hwfit.search.strategies.base import within
from hwfit.search.strategies.drive import run_strategy
from hwfit.search.strategies.integer_programme import by_damage
from hwfit.search.strategies.picks import canonical, harm
from hwfit.search.strategies.replay import Replay, compounding

EXACT, REDRAWN = "exact", "redrawn"
"""The optimum of the additive damages; and that under prices drawn from the table's intervals, one draw a seed.
Strategies by their own names search on replays."""
Picks = Mapping[tuple[str, float, str, int], Picked | None]
"""By setting, budget, method and seed; None where nothing meets the budget."""


@dataclass(frozen=True)
class Bench:
    """One setting with the shared damages; `order` lists blocks, most important first."""

    setting: Setting
    damage: Damage
    order: tuple[int, ...]
    strength: float = 0.25
    _draws: dict[int, Bench] = field(default_factory=dict, repr=False)
    _replays: dict[int, Replay] = field(default_factory=dict, repr=False)
    _known: dict[Picked, Mapping[str, float]] = field(default_factory=dict, repr=False)

    def limits(self, share: float) -> dict[str, float]:
        return {self.setting.metric: share * self.setting.fastest}

    def problem(self, share: float) -> Problem:
        s = self.setting
        cost = partial(predicted_cost, s.latency, s.workload, metrics=[s.metric])
        return Problem(self.damage.table, s.space, self.order, cost, self.limits(share), known=self._known)

    def exact(self, share: float) -> Picked | None:
        """The provably best pick of the additive damages."""
        problem = self.problem(share)
        found = next(by_damage(problem), None)
        return None if found is None else canonical(found[1], self.setting.space, self.order)

    def redrawn(self, seed: int) -> Bench:
        """The same with prices drawn anew; budgets are shares of the fastest model there."""
        if seed not in self._draws:
            self._draws[seed] = Bench(self.setting.redrawn(seed), self.damage, self.order)
        return self._draws[seed]

    def searched(self, share: float, method: str, seed: int, evaluations: int) -> Picked | None:
        """What a strategy ends with on the replay of a seed; None where nothing meets the budget."""
        of = self._replay(seed)
        strategy = strategy_named(method)(of, self.limits(share), evaluations, seed)
        try:
            return run_strategy(strategy, of, evaluations, progress=False).picked
        except HwfitError:
            return None

    def used(self, picked: Picked, share: float) -> float:
        """Time of a pick, also one of another setting, in shares of the budget."""
        return self.setting.seconds(picked, self.order) / self.limits(share)[self.setting.metric]

    def meets(self, picked: Picked, share: float) -> bool:
        limits = self.limits(share)
        return within({self.setting.metric: self.setting.seconds(picked, self.order)}, limits)

    def harm(self, picked: Picked) -> float:
        return harm(picked, self.problem(1.0))

    def _replay(self, seed: int) -> Replay:
        if seed not in self._replays:
            s = self.setting
            expected = ExpectedCosts(s.space, self.order, s.latency, s.workload)
            cost = partial(predicted_cost, s.latency, s.workload, metrics=[s.metric])
            matrix = compounding(s.space.shape.blocks, seed, self.strength)
            self._replays[seed] = Replay(
                s.space, self.order, self.damage, cost, expected, matrix, settings=SearchSettings(steps=60),
                known=self._known,
            )  # fmt: skip
        return self._replays[seed]


def search(
    benches: Sequence[Bench], shares: Sequence[float], strategies: Sequence[str], seeds: int, evaluations: int
) -> Iterator[tuple[tuple[str, float, str, int], Picked | None]]:
    """Every setting at every budget: the exact pick, then the others' on each seed."""
    for bench in benches:
        for share in shares:
            name = bench.setting.name
            yield (name, share, EXACT, 0), bench.exact(share)
            for seed in range(seeds):
                yield (name, share, REDRAWN, seed), bench.redrawn(seed).exact(share)
            for method in strategies:
                for seed in range(seeds):
                    yield (name, share, method, seed), bench.searched(share, method, seed, evaluations)


@dataclass(frozen=True)
class Crossed:
    """The choice of one table under another's budget: how far over it, and what it costs to choose with the wrong one.

    `over` is the share of the budget that x's pick takes too much on y (negative: what it leaves unused). `extra` is
    the damage, in nats, of y's own pick less that of x's. `regret` is what the best pick of x's front that y's table
    lets through damages more than y's own; infinite where there is none.
    """

    over: float
    extra: float
    regret: float


def crossed(x: Bench, y: Bench, share: float, mine: Picked, own: Picked, front: Sequence[Picked]) -> Crossed:
    """`mine` is x's pick at this budget and `own` y's; `front` are x's picks at many budgets."""
    through = [y.harm(p) for p in front if y.meets(p, share)]
    least = y.harm(own)
    return Crossed(y.used(mine, share) - 1, least - y.harm(mine), min(through, default=math.inf) - least)
