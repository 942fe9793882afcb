"""Knapsack: the subnet that the additive damage model likes best under a budget, over all widths and precisions.

Given widths and depth, costs and damages of the precisions add up over linears, so one multiplier a limit decides them
all (`multipliers`): each linear, or block where its linears share one, takes the precision with the least damage +
multipliers x cost; where blocks have MLP widths of their own, each takes its width likewise. The other widths are
enumerated, least harmful first, and enumeration ends where the widths alone are worse than the best whole found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from hwfit.search import items
from hwfit.search.budget import shares
from hwfit.search.discretise import WIDTHS, Picked, Problem
from hwfit.search.multipliers import Multipliers
from hwfit.space import Space
from hwfit.subnet import LINEARS

Array = NDArray[np.float64]
Index = NDArray[np.intp]


def best_by_damage(problem: Problem, allowed: Sequence[int] | None = None) -> Picked | None:
    """The pick of least total damage that keeps every limit; None if there is none.

    `allowed` restricts the precisions, as indices into the space's. Near optimal in the additive model: what
    multipliers leave unspent is at most one linear's step a limit.
    """
    grid = Grid.of(problem, allowed)
    widths = grid.every_width(problem)
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

    Each has the precisions (and MLP widths, if blocks have their own) that are best at its widths; least total damage
    first.
    """
    grid = Grid.of(problem, allowed)
    here = tuple(getattr(picked, axis) if axis in grid.shared else 0 for axis in WIDTHS)
    unit = np.eye(len(WIDTHS), dtype=int)[[axis in grid.shared for axis in WIDTHS]]
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
class Grid:
    """The damage tables as arrays, and the precisions that linears and the LM head may take."""

    tables: dict[str, Array]
    options: list[int]
    head_options: list[int]
    shared: tuple[str, ...]
    """Axes with one choice for the whole model."""
    added: dict[Picked, tuple[Array, Array, Array]] = field(default_factory=dict)
    """By widths, for all depths: see `_added`."""
    solver: Multipliers = field(default_factory=Multipliers)

    @classmethod
    def of(cls, problem: Problem, allowed: Sequence[int] | None) -> Grid:
        tables = {axis: getattr(problem.damage, axis).double().numpy() for axis in (*WIDTHS, "precision", "lm_head")}
        shared = tuple(axis for axis in WIDTHS if axis != "mlp" or not problem.space.mlp_per_block)
        linears, head = (problem.space.options(linear) for linear in (LINEARS[0], "lm_head"))
        if allowed is not None:
            linears = [o for o in allowed if o in linears]
            head = [o for o in allowed if o in head] or head
        return cls(tables, linears, head, shared)

    def every_width(self, problem: Problem) -> list[tuple[int, ...]]:
        """All choices of the axes that all blocks share; 0 for those that may not change."""
        free = {axis: axis in problem.widths and axis in self.shared for axis in WIDTHS}
        return list(product(*(range(len(self.tables[axis]) if free[axis] else 1) for axis in WIDTHS)))

    def width_harm(self, choice: Sequence[int]) -> float:
        """Of the axes that all blocks share."""
        return float(sum(self.tables[a][i] for a, i in zip(WIDTHS, choice, strict=True) if a in self.shared))

    def start(self, choice: Sequence[int], space: Space) -> Picked:
        """These widths at the first precision that may be chosen."""
        first, blocks = self.options[0], space.shape.blocks
        widths: dict[str, int] = dict(zip(WIDTHS, choice, strict=True))
        mlp = widths.pop("mlp")
        rows = ((first,) * len(LINEARS),) * blocks
        own = (mlp,) * blocks if "mlp" not in self.shared else mlp
        return Picked(**widths, mlp=own, precision=rows, lm_head=self.head_options[0])


@dataclass(frozen=True)
class Decisions:
    """What is left to decide at given widths: one option for every item (see `items`), in shares of the limits."""

    harm: Array  # [items, options]
    moved: Array  # [limits, items, options], what an option adds
    here: Array  # [limits], what is used without
    picked: Callable[[Index], Picked]  # of the option of each item

    @classmethod
    def at(cls, start: Picked, grid: Grid, problem: Problem) -> Decisions | None:
        """At the widths of `start`; MLP widths are decided too, where blocks have their own. None without options."""
        options, space = grid.options, problem.space
        if not options:
            return None
        kept = sorted(problem.block_order[: space.depth[start.depth]])
        own = isinstance(start.mlp, tuple)
        mlps = range(len(space.mlp)) if own and "mlp" in problem.widths else [0]
        pace = problem.cost_of(grid.start((0,) * len(WIDTHS), space)).get("decode", 1.0)
        here = np.array(shares(problem.limits, problem.cost_of(start), pace))
        alike = replace(start, depth=0)
        if (added := grid.added.get(alike)) is None:
            added = grid.added[alike] = _added(start, kept[0], mlps, here, pace, grid, problem)
        wider, moved, head = added
        harm = grid.tables["precision"][np.ix_(kept, range(len(LINEARS)), options)]  # [blocks, kinds, options]
        mlp_harm = grid.tables["mlp"][np.ix_(kept, list(mlps))] if own else np.zeros((len(kept), 1))
        tables = items.Tables(harm, moved, mlp_harm, wider)
        packed = (items.blocks if space.precision_per == "block" else items.mlps if own else items.linears)(tables)
        most = max(packed.harm.shape[-1], len(grid.head_options))
        head_harm = grid.tables["lm_head"][None, grid.head_options]
        harm = np.concatenate([items.padded(packed.harm, most), items.padded(head_harm, most)])  # [items, options]
        moved = np.concatenate([items.padded(packed.moved, most), items.padded(head, most)], 1)

        def picked(chosen: Index) -> Picked:
            out, (rows, widths) = start, packed.read(chosen[:-1].clip(max=packed.harm.shape[-1] - 1))
            for block, row, width in zip(kept, rows.tolist(), widths.tolist(), strict=True):
                out = out.at(block, row=tuple(options[o] for o in row), mlp=width if own else None)
            return replace(out, lm_head=grid.head_options[min(int(chosen[-1]), len(grid.head_options) - 1)])

        return cls(harm, moved, here, picked)


def _precisions(start: Picked, grid: Grid, problem: Problem, below: float = np.inf) -> tuple[float, Picked] | None:
    """Least damage, if it is `below` this, and its pick at the widths of `start`."""
    left = Decisions.at(start, grid, problem)
    chosen = left and grid.solver.least_harm(left.harm, left.moved, left.here, below)
    if left is None or chosen is None:
        return None
    return float(left.harm[np.arange(len(chosen)), chosen].sum()), left.picked(chosen)


def _added(
    start: Picked, block: int, mlps: Sequence[int], here: Array, pace: float, grid: Grid, problem: Problem
) -> tuple[Array, Array, Array]:
    """Shares of the limits that choices add, the same in every block: an MLP width of a block's own [limits, widths],
    a precision by linear kind [limits, widths, kinds, options], the LM head's [limits, 1, options]."""
    options, limits = grid.options, problem.limits

    def used(picked: Picked) -> Array:
        return np.array(shares(limits, problem.cost_of(picked), pace))

    wider = np.zeros((len(limits), len(mlps)))
    moved = np.zeros((len(limits), len(mlps), len(LINEARS), len(options)))
    for m in mlps:
        base = start.at(block, mlp=m) if isinstance(start.mlp, tuple) else start
        at = used(base)
        wider[:, m], row = at - here, base.precision[block]
        for o, option in enumerate(options[1:], 1):
            for j in range(len(LINEARS)):
                moved[:, m, j, o] = used(base.at(block, row=(*row[:j], option, *row[j + 1 :]))) - at
    head = np.stack([used(replace(start, lm_head=o)) - here for o in grid.head_options], 1)[:, None]
    return wider, moved, head
