"""Discretise and repair: from probabilities to one subnet that meets the budget, giving up as little as possible."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from hwfit.errors import HwfitError
from hwfit.latency_models.differentiable import Choices
from hwfit.space import AXES, Space
from hwfit.subnet import LINEARS, Subnet

Cost = Callable[[Subnet], dict[str, float]]


@dataclass(frozen=True)
class Picked:
    """Choice indices on every axis; `precision[block][linear]`, `lm_head`. `mlp` is one for all blocks, or one each."""

    hidden: int
    heads: int
    head_size: int
    mlp: int | tuple[int, ...]
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
            space.mlp[self.mlp] if isinstance(self.mlp, int) else tuple(space.mlp[self.mlp[b]] for b in kept),
            kept,
            rows,
            space.precisions[self.lm_head],
        )

    def at(self, block: int, row: tuple[int, ...] | None = None, mlp: int | None = None) -> Picked:
        """The same with another precision row, or another MLP width of its own, in one block."""
        rows, widths = self.precision, self.mlp
        if row is not None:
            rows = (*rows[:block], row, *rows[block + 1 :])
        if mlp is not None:
            assert isinstance(widths, tuple)
            widths = (*widths[:block], mlp, *widths[block + 1 :])
        return replace(self, precision=rows, mlp=widths)


WIDTHS = AXES
LEAST = 1e-5
"""Nats below which two choices count as equally good."""


def most_likely(choices: Choices) -> Picked:
    """Argmax on every axis."""
    single = {
        axis: int(getattr(choices, axis).argmax()) for axis in ("hidden", "heads", "head_size", "depth", "lm_head")
    }
    rows = tuple(map(tuple, choices.precision.argmax(-1).tolist()))
    mlp = choices.mlp.argmax(-1)
    return Picked(precision=rows, mlp=tuple(mlp.tolist()) if choices.mlp_by_block else int(mlp), **single)


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
        known: dict[Alike, Mapping[str, float]] = {}
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


Alike = tuple[object, ...]
"""Moves with the same key change the cost by the same amount, whichever block they are made in."""


def _moves(picked: Picked, score: dict[str, Tensor], problem: Problem) -> Iterator[tuple[float, Picked, Alike | None]]:
    """(damage taken away, pick, key) of every pick that differs on one axis; widths step to a neighbour."""
    for axis in problem.widths:
        here = getattr(picked, axis)
        if not isinstance(here, int):
            yield from _mlp_moves(picked, here, score["mlp"], problem)
            continue
        for to in (here - 1, here + 1):
            if 0 <= to < len(score[axis]):
                yield float(score[axis][to] - score[axis][here]), replace(picked, **{axis: to}), None
    if not problem.precisions:
        return
    space = problem.space
    for to in space.options("lm_head"):
        if to != picked.lm_head:
            yield float(score["lm_head"][to] - score["lm_head"][picked.lm_head]), replace(picked, lm_head=to), None
    table, options = score["precision"].tolist(), space.options(LINEARS[0])
    whole = space.precision_per == "block"
    for block in problem.block_order[: space.depth[picked.depth]]:
        row = picked.precision[block]
        width = None if isinstance(picked.mlp, int) else picked.mlp[block]
        for i, was in enumerate(row[:1] if whole else row):
            for to in options:
                if to == was:
                    continue
                changed = (to,) * len(row) if whole else (*row[:i], to, *row[i + 1 :])
                places = range(len(row)) if whole else (i,)
                gain = sum(table[block][j][to] - table[block][j][row[j]] for j in places)
                yield gain, picked.at(block, row=changed), (row if whole else (i, was), to, width)


def _mlp_moves(
    picked: Picked, widths: tuple[int, ...], score: Tensor, problem: Problem
) -> Iterator[tuple[float, Picked, Alike | None]]:
    """The moves of each kept block's own MLP width."""
    table = score.tolist()
    for block in problem.block_order[: problem.space.depth[picked.depth]]:
        here = widths[block]
        for to in (here - 1, here + 1):
            if 0 <= to < len(table[block]):
                alike = ("mlp", here, to, picked.precision[block][-3:])  # gate, up and down are what it cuts
                yield table[block][to] - table[block][here], picked.at(block, mlp=to), alike


def with_precision(picked: Picked, index: int, space: Space | None = None) -> Picked:
    """The same architecture at one precision everywhere; the LM head of `space` may have to stay at what it has."""
    kept = space is not None and index not in space.options("lm_head")
    rows = tuple((index,) * len(LINEARS) for _ in picked.precision)
    return replace(picked, precision=rows, lm_head=picked.lm_head if kept else index)


def random_pick(space: Space, rng: random.Random) -> Picked:
    """Widths drawn evenly; precisions in shares that are drawn evenly themselves, so that few bits everywhere, many
    everywhere and all between are as likely."""
    weights = [rng.expovariate(1) for _ in space.precisions]

    def row(linear: str, count: int) -> tuple[int, ...]:
        options = space.options(linear)
        return tuple(rng.choices(options, [weights[i] for i in options], k=count))

    blocks = range(space.shape.blocks)
    widths = {axis: rng.randrange(len(getattr(space, axis))) for axis in WIDTHS}
    mlp = tuple(rng.randrange(len(space.mlp)) for _ in blocks) if space.mlp_per_block else widths["mlp"]
    if space.precision_per == "block":
        rows = tuple(row(LINEARS[0], 1) * len(LINEARS) for _ in blocks)
    else:
        rows = tuple(row(LINEARS[0], len(LINEARS)) for _ in blocks)
    return Picked(**{**widths, "mlp": mlp}, precision=rows, lm_head=row("lm_head", 1)[0])
