"""OnSupernet: the evaluator of real searches, losses from the supernet, costs from the latency model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hwfit.search.discretise import Picked, Problem
from hwfit.search.joint import FREE, Freedom, Searcher
from hwfit.search.optimise import StepLog
from hwfit.search.strategies.base import Limits, undecided
from hwfit.space import Space


@dataclass
class OnSupernet:
    """`name` is that of the search, `key` what its losses depend on; `strategy` whose descents are kept, and `log` the
    last of them. See `Bench.trials`."""

    searcher: Searcher
    name: str
    key: str
    strategy: str
    trials: int | None = None
    log: list[StepLog] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.key = f"{self.key} {self.searcher.settings.rank_by}"

    @property
    def space(self) -> Space:
        return self.searcher.study.space

    @property
    def candidates(self) -> int:
        return self.searcher.settings.candidates

    def problem(self, limits: Limits, freedom: Freedom = FREE) -> Problem:
        return self.searcher.problem(limits, freedom)

    def descend(self, limits: Limits, freedom: Freedom = FREE, precision: int | None = None) -> Sequence[Picked]:
        if not self.searcher.settings.steps:
            return []
        architecture = undecided(self.space, freedom, precision)
        name = self.name if precision is None else f"{self.name} {self.space.precisions[precision]}"
        starts, self.log = self.searcher.descend(name, architecture, limits, f"{self.key} {self.strategy}")
        return starts

    def loss(self, picked: Picked) -> float:
        return self.searcher.loss_of(picked)

    def costs(self, picked: Picked) -> Mapping[str, float]:
        return self.searcher.cost(picked.subnet(self.space, self.searcher.order))
