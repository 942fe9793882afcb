"""Discretise and repair: from probabilities to one subnet that meets the budget, giving up as little as possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from hwfit.errors import HwfitError
from hwfit.latency_models.differentiable import Choices
from hwfit.space import Space
from hwfit.subnet import LINEARS, Subnet

Cost = Callable[[Subnet], dict[str, float]]


@dataclass(frozen=True)
class Picked:
    """Choice indices on every axis; `precision[block][linear]`, `lm_head`."""

    hidden: int
    heads: int
    head_size: int
    mlp: int
    depth: int
    precision: tuple[tuple[int, ...], ...]
    lm_head: int

    def subnet(self, space: Space, block_order: Sequence[int]) -> Subnet:
        kept = tuple(sorted(block_order[: space.depth[self.depth]]))
        rows = tuple(tuple(space.precisions[p] for p in self.precision[b]) for b in kept)
        return space.subnet(
            space.hidden[self.hidden],
            space.heads[self.heads],
            space.head_size[self.head_size],
            space.mlp[self.mlp],
            kept,
            rows,
            space.precisions[self.lm_head],
        )


WIDTHS = ("hidden", "heads", "head_size", "mlp", "depth")
LEAST = 1e-5
"""Nats below which two choices count as equally good."""


def most_likely(choices: Choices) -> Picked:
    """Argmax on every axis."""
    single = {axis: int(getattr(choices, axis).argmax()) for axis in (*WIDTHS, "lm_head")}
    rows = tuple(map(tuple, choices.precision.argmax(-1).tolist()))
    return Picked(precision=rows, **single)


@dataclass(frozen=True)
class Problem:
    """What a pick is to be best at: the least `damage` whose `cost` keeps all `limits`.

    `damage` is what each choice costs on its own (nats, shaped like `Choices`); `block_order` lists all blocks, most
    important first. Only the `widths` named may change (the others stay the whole model's), and precisions only
    if `precisions`. `known` remembers costs; problems that differ in their damage and limits alone may share it.
    """

    damage: Choices
    space: Space
    block_order: Sequence[int]
    cost: Cost
    limits: Mapping[str, float]
    widths: tuple[str, ...] = WIDTHS
    precisions: bool = True
    known: dict[Picked, Mapping[str, float]] = field(default_factory=dict, repr=False, compare=False)

    def cost_of(self, picked: Picked) -> Mapping[str, float]:
        if (costs := self.known.get(picked)) is None:
            costs = self.known[picked] = self.cost(picked.subnet(self.space, self.block_order))
        return costs


def repair(picked: Picked, problem: Problem) -> Picked:
    """Change one choice at a time until every limit holds, then spend what slack is left.

    Going down, the next move is the one that adds the least damage per share of excess cost removed; going up, the
    one that takes the most away and still fits. Raises `HwfitError` if nothing smaller exists.
    """
    limits = problem.limits
    score = {axis: -getattr(problem.damage, axis) for axis in (*WIDTHS, "lm_head", "precision")}

    def excess(costs: Mapping[str, float]) -> float:
        return sum(max(0.0, costs[name] / limit - 1) for name, limit in limits.items())

    def moves() -> Iterator[tuple[float, Picked, float]]:
        """(damage taken away, pick, excess) of every change of one choice."""
        here = problem.cost_of(picked)
        known: dict[tuple[int, int, int], Mapping[str, float]] = {}
        for gain, move, alike in _moves(picked, score, problem):
            if alike is None or alike not in known:
                costs = problem.cost_of(move)
                if alike is not None:
                    known[alike] = {name: costs[name] - here[name] for name in costs}
            else:
                costs = {name: here[name] + delta for name, delta in known[alike].items()}
            yield gain, move, excess(costs)

    over = excess(problem.cost_of(picked))
    while over > 0:
        lighter = [
            (max(-gain, LEAST) / (over - left), move, left) for gain, move, left in moves() if left < over - 1e-9
        ]
        if not lighter:
            raise HwfitError(f"no smaller subnet of this space meets {dict(limits)}; allowed: a larger budget")
        _, picked, over = min(lighter, key=lambda option: option[0])
    while better := [(gain, move) for gain, move, left in moves() if gain > LEAST and left == 0]:
        picked = max(better, key=lambda pair: pair[0])[1]
    return picked


def _moves(
    picked: Picked, score: dict[str, Tensor], problem: Problem
) -> Iterator[tuple[float, Picked, tuple[int, int, int] | None]]:
    """(damage taken away, pick, key) of every pick that differs on one axis; widths step to a neighbour.

    Moves with the same key change the cost by the same amount: the same linear, at the same widths, in any block.
    """
    for axis in problem.widths:
        here = getattr(picked, axis)
        for to in (here - 1, here + 1):
            if 0 <= to < len(score[axis]):
                yield float(score[axis][to] - score[axis][here]), replace(picked, **{axis: to}), None
    if not problem.precisions:
        return
    space = problem.space
    options = range(len(space.precisions))
    for to in options:
        if to != picked.lm_head:
            yield float(score["lm_head"][to] - score["lm_head"][picked.lm_head]), replace(picked, lm_head=to), None
    table = score["precision"].tolist()
    for block in problem.block_order[: space.depth[picked.depth]]:
        row = picked.precision[block]
        for i, was in enumerate(row):
            for to in options:
                if to != was:
                    changed = (*row[:i], to, *row[i + 1 :])
                    rows = (*picked.precision[:block], changed, *picked.precision[block + 1 :])
                    yield table[block][i][to] - table[block][i][was], replace(picked, precision=rows), (i, was, to)


def with_precision(picked: Picked, index: int) -> Picked:
    """The same architecture at one precision everywhere."""
    return replace(picked, precision=tuple((index,) * len(LINEARS) for _ in picked.precision), lm_head=index)
