"""Strategy: how to look for the best subnet under limits, as ask and tell, and what every strategy is given for it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hwfit.search.discretise import WIDTHS, Picked, Problem
from hwfit.search.joint import FREE, Freedom
from hwfit.search.relax import PRECISIONS, Architecture
from hwfit.search.strategies.picks import canonical
from hwfit.space import Space

ROUNDING = 1e-9
"""By how much a sum of costs may differ from the same sum in another order."""
Limits = Mapping[str, float]
Starts = Mapping[int | None, Sequence[Picked]]
"""Where to begin, by the precision that is fixed (an index of the space's), None where it is free."""


@dataclass(frozen=True)
class Scored:
    """What one pick loses (nats a token) and costs (seconds, bytes) by metric."""

    loss: float
    costs: Mapping[str, float]

    def meets(self, limits: Limits) -> bool:
        return within(self.costs, limits)


class Bench(Protocol):
    """What a strategy may ask as often as it likes: what subnets cost, and where sensitivities and gradients point."""

    @property
    def space(self) -> Space: ...

    @property
    def candidates(self) -> int:
        """How many picks of the damage model compete where gradients begin."""
        ...

    @property
    def trials(self) -> int | None:
        """How many neighbours a walk from the best of these tries at most; None: as many as it may evaluate."""
        ...

    def problem(self, limits: Limits, freedom: Freedom = FREE) -> Problem: ...

    def descend(self, limits: Limits, freedom: Freedom = FREE, precision: int | None = None) -> Sequence[Picked]:
        """Picks that gradients lead to, at `precision` everywhere if one is given; they need not meet the limits. None
        if no steps are to be taken."""
        ...


class Evaluator(Bench, Protocol):
    """A bench that also tells what a pick really loses: this takes time, and strategies must do with little of it."""

    @property
    def key(self) -> str:
        """What losses depend on, as one line: those kept under another key are not taken over."""
        ...

    def loss(self, picked: Picked) -> float:
        """Nats a token."""
        ...

    def costs(self, picked: Picked) -> Mapping[str, float]:
        """Seconds and bytes by metric, those of any limits among them."""
        ...


class Strategy(Protocol):
    """Proposes picks and learns what they lose. Asking again before telling gives the same picks."""

    @property
    def limits(self) -> Limits: ...

    @property
    def freedom(self) -> Freedom:
        """What it may change of the whole model."""
        ...

    @property
    def guided(self) -> bool:
        """Whether the damage model has a say in what it asks for."""
        ...

    @property
    def told(self) -> Mapping[Picked, Scored]:
        """All that it was told."""
        ...

    def ask(self, n: int = 1) -> list[Picked]:
        """Up to `n` picks it wants to know the loss of; none once it is done.

        Raises `HwfitError` if nothing in its reach meets the limits.
        """
        ...

    def tell(self, picked: Picked, scored: Scored) -> None:
        """Also of picks that were not asked for."""
        ...

    def best(self) -> tuple[Picked, Scored] | None:
        """The pick told with the least loss of those that meet the limits; the first of equals."""
        ...

    def again(self, limits: Limits, evaluations: int) -> Strategy:
        """The same strategy under other limits, which begins where this one is."""
        ...


Plan = Generator[Sequence[Picked], Sequence[Scored], None]
"""Yields picks, is sent what they scored in the same order, returns when there is nothing left to ask."""
Part = Generator[Sequence[Picked], Sequence[Scored], Picked]
"""A part of a plan, which returns what it found."""


class Planned(ABC):
    """A strategy whose `plan` is written as if scores came back at once.

    `evaluations` is how many scores it may hope for. `starts` take the place of descents; `ends` is where they, or the
    descents, have led to so far.
    """

    freedom = FREE
    guided = True
    needs: str | None = None
    """A package that is not installed with hwfit itself."""
    paced = False
    """Whether what it asks for depends on how many evaluations it may hope for."""

    def __init__(
        self, bench: Bench, limits: Limits, evaluations: int = 64, seed: int = 0, starts: Starts | None = None
    ):
        self.bench, self.limits, self.evaluations, self.seed = bench, dict(limits), evaluations, seed
        self.starts: Starts = starts or {}
        self.ends: dict[int | None, Sequence[Picked]] = {}
        self.told: dict[Picked, Scored] = {}
        self._plan: Plan | None = None
        self._batch: list[Picked] = []

    @abstractmethod
    def plan(self) -> Plan: ...

    def problem(self) -> Problem:
        return self.bench.problem(self.limits, self.freedom)

    def ask(self, n: int = 1) -> list[Picked]:
        try:
            if self._plan is None:
                self._plan = self.plan()
                self._take(next(self._plan))
            while all(p in self.told for p in self._batch):
                self._take(self._plan.send([self.told[p] for p in self._batch]))
        except StopIteration:
            return []
        return [p for p in dict.fromkeys(self._batch) if p not in self.told][:n]

    def tell(self, picked: Picked, scored: Scored) -> None:
        self.told[canonical(picked, self.bench.space, self.problem().block_order)] = scored

    def best(self) -> tuple[Picked, Scored] | None:
        meeting = [(p, s) for p, s in self.told.items() if s.meets(self.limits)]
        return min(meeting, key=lambda found: found[1].loss) if meeting else None

    def again(self, limits: Limits, evaluations: int) -> Strategy:
        new = type(self)(self.bench, limits, evaluations, self.seed, self.ends)
        new.told |= self.told
        return new

    def _take(self, batch: Sequence[Picked]) -> None:
        order = self.problem().block_order
        self._batch = [canonical(p, self.bench.space, order) for p in batch]


def least(picks: Sequence[Picked]) -> Part:
    """The pick that loses least; the first of equals."""
    scored = yield picks
    return min(zip(picks, scored, strict=True), key=lambda pair: pair[1].loss)[0]


def together(plans: Sequence[Plan]) -> Plan:
    """Several plans side by side, so that none is left out when evaluations run out."""
    sending: list[tuple[Plan, Sequence[Scored] | None]] = [(plan, None) for plan in plans]
    while sending:
        asked: list[tuple[Plan, Sequence[Picked]]] = []
        for plan, scored in sending:
            try:
                asked.append((plan, next(plan) if scored is None else plan.send(scored)))
            except StopIteration:
                continue
        if not asked:
            return
        answers = iter((yield [p for _, picks in asked for p in picks]))
        sending = [(plan, [next(answers) for _ in picks]) for plan, picks in asked]


def undecided(space: Space, freedom: Freedom, precision: int | None) -> Architecture:
    """Where a descent begins: what it may not change is decided for the whole model's, or for `precision`."""
    architecture = Architecture(space)
    architecture.freeze([axis for axis in WIDTHS if axis not in freedom.widths], 0)
    if precision is not None:
        architecture.freeze(PRECISIONS, precision)
    return architecture


def within(costs: Mapping[str, float], limits: Limits) -> bool:
    return used(costs, limits) <= 1 + ROUNDING


def used(costs: Mapping[str, float], limits: Limits) -> float:
    """The largest share of a limit."""
    return max((costs[metric] / limit for metric, limit in limits.items()), default=-math.inf)
