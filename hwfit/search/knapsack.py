"""Knapsack: the subnet that the additive damage model likes best under a budget, over all widths and precisions.

Given widths and depth, costs and damages of the precisions add up over linears, so one multiplier a limit decides them
all (`multipliers`). Widths are enumerated, least harmful first, and enumeration ends where the widths alone are worse
than the best whole found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from hwfit.search.budget import shares
from hwfit.search.discretise import WIDTHS, Picked, Problem
from hwfit.search.multipliers import Multipliers
from hwfit.space import Space
from hwfit.subnet import LINEARS

Array = NDArray[np.float64]


def best_by_damage(problem: Problem, allowed: Sequence[int] | None = None) -> Picked | None:
    """The pick of least total damage that keeps every limit; None if there is none.

    `allowed` restricts the precisions, as indices into the space's. Near optimal in the additive model: what
    multipliers leave unspent is at most one linear's step a limit.
    """
    grid = _Grid.of(problem, allowed)
    widths = list(product(*(range(len(grid.tables[axis]) if axis in problem.widths else 1) for axis in WIDTHS)))
    harm = [grid.width_harm(choice) for choice in widths]
    best: tuple[float, Picked] | None = None
    for i in np.argsort(harm, kind="stable"):
        if best and harm[i] >= best[0]:
            break
        below = best[0] - harm[i] if best else np.inf
        found = _precisions(grid.start(widths[i], problem.space), grid, problem, below)
        if found and (best is None or harm[i] + found[0] < best[0]):
            best = harm[i] + found[0], found[1]
    return best[1] if best else None


def neighbours(picked: Picked, problem: Problem, allowed: Sequence[int] | None = None) -> list[Picked]:
    """The picks one width away, or with one width smaller and another larger, that keep every limit.

    Each has the precisions that are best at its widths; least total damage first.
    """
    grid = _Grid.of(problem, allowed)
    here = tuple(getattr(picked, axis) for axis in WIDTHS)
    unit = np.eye(len(WIDTHS), dtype=int)
    steps = [*unit, *-unit, *(up - down for up, down in permutations(unit, 2))]
    out = []
    for step in steps:
        choice = tuple(int(c) for c in here + step)
        if any(not 0 <= c < len(grid.tables[axis]) for axis, c in zip(WIDTHS, choice, strict=True)):
            continue
        if any(c != was and axis not in problem.widths for axis, c, was in zip(WIDTHS, choice, here, strict=True)):
            continue
        if found := _precisions(grid.start(choice, problem.space), grid, problem):
            out.append((grid.width_harm(choice) + found[0], found[1]))
    return [p for _, p in sorted(out, key=lambda entry: entry[0])]


@dataclass(frozen=True)
class _Grid:
    """The damage tables as arrays, and the precisions that may be chosen; `moved` by widths, for all depths."""

    tables: dict[str, Array]
    options: list[int]
    moved: dict[Picked, Array] = field(default_factory=dict)
    solver: Multipliers = field(default_factory=Multipliers)

    @classmethod
    def of(cls, problem: Problem, allowed: Sequence[int] | None) -> _Grid:
        tables = {axis: getattr(problem.damage, axis).double().numpy() for axis in (*WIDTHS, "precision", "lm_head")}
        return cls(tables, list(range(len(problem.space.precisions)) if allowed is None else allowed))

    def width_harm(self, choice: Sequence[int]) -> float:
        return float(sum(self.tables[axis][i] for axis, i in zip(WIDTHS, choice, strict=True)))

    def start(self, choice: Sequence[int], space: Space) -> Picked:
        """These widths at the first precision that may be chosen."""
        first = self.options[0]
        rows = ((first,) * len(LINEARS),) * space.shape.blocks
        return Picked(**dict(zip(WIDTHS, choice, strict=True)), precision=rows, lm_head=first)


def _precisions(start: Picked, grid: _Grid, problem: Problem, below: float = np.inf) -> tuple[float, Picked] | None:
    """Least damage, if it is `below` this, and its pick at the widths of `start`."""
    options, tables = grid.options, grid.tables
    kept = sorted(problem.block_order[: problem.space.depth[start.depth]])
    pace = problem.cost_of(grid.start((0,) * len(WIDTHS), problem.space)).get("decode", 1.0)
    here = np.array(shares(problem.limits, problem.cost_of(start), pace))
    alike = replace(start, depth=0)
    if (moved := grid.moved.get(alike)) is None:
        moved = grid.moved[alike] = _moved(start, kept[0], here, pace, options, problem)
    harm = tables["precision"][np.ix_(kept, range(len(LINEARS)), options)]  # [blocks, kinds, options]
    harm = np.concatenate([harm.reshape(-1, len(options)), tables["lm_head"][None, options]])
    moved = np.concatenate(
        [np.tile(moved[:, :-1], (1, len(kept), 1)), moved[:, -1:]], axis=1
    )  # [limits, linears, options]

    choice = grid.solver.least_harm(harm, moved, here, below)
    if choice is None:
        return None
    picks = [options[c] for c in choice]
    rows_by_block = {b: tuple(picks[i * len(LINEARS) : (i + 1) * len(LINEARS)]) for i, b in enumerate(kept)}
    precision = tuple(rows_by_block.get(b, row) for b, row in enumerate(start.precision))
    return float(harm[np.arange(len(choice)), choice].sum()), replace(start, precision=precision, lm_head=picks[-1])


def _moved(start: Picked, block: int, here: Array, pace: float, options: list[int], problem: Problem) -> Array:
    """Share of each limit that a precision adds, by linear kind (the same in every block): [limits, kinds, options]."""
    limits, row = problem.limits, start.precision[block]
    moved = np.zeros((len(limits), len(LINEARS) + 1, len(options)))

    def added(picked: Picked) -> Array:
        return np.array(shares(limits, problem.cost_of(picked), pace)) - here

    for o, option in enumerate(options[1:], 1):
        for j in range(len(LINEARS)):
            changed = (*row[:j], option, *row[j + 1 :])
            rows = (*start.precision[:block], changed, *start.precision[block + 1 :])
            moved[:, j, o] = added(replace(start, precision=rows))
        moved[:, -1, o] = added(replace(start, lm_head=option))
    return moved
