"""Integer programme: sensitivities, then the assignment of precisions that is provably best in the additive model.

The widths that all blocks share are enumerated. At given widths damages and costs add up over the items left to decide
(a linear; a block, where its linears share a precision; a block's MLP with its width, where blocks have their own), so
that one-hot variables x[item, option] make a multiple-choice knapsack with a row for each limit, which HiGHS solves to
optimality (scipy.optimize.milp). Nothing is linearised: power and floors are rows in the form that adds up.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import count

from hwfit.errors import HwfitError
from hwfit.search.discretise import Picked, Problem
from hwfit.search.knapsack import Decisions, Grid
from hwfit.search.strategies.additive import bound, optimum
from hwfit.search.strategies.base import Plan, Planned

WIDTHS, BOUNDED, SOLVED = range(3)
"""How much is known of what waits: the damage of its widths, a bound on the whole, the optimum."""


class IntegerProgramme(Planned):
    """Asks for the optimum first, then for that of the next best widths, and so on."""

    def plan(self) -> Plan:
        asked = False
        for _, picked in by_damage(self.problem()):
            asked = True
            yield [picked]
        if not asked:
            raise HwfitError(f"no subnet of this space meets {self.limits}; allowed: a larger budget")


def by_damage(problem: Problem) -> Iterator[tuple[float, Picked]]:
    """(total damage, pick): the optimum at every choice of the shared widths, the least damage of all first.

    Widths wait with what their damage can be at least; a programme is solved once nothing that waits could be better.
    """
    grid, order = Grid.of(problem, None), count()
    waiting: list[tuple[float, int, int, tuple[int, ...], Decisions | None, Picked | None]] = []
    for choice in grid.every_width(problem):
        heapq.heappush(waiting, (grid.width_harm(choice), WIDTHS, next(order), choice, None, None))
    while waiting:
        damage, known, _, choice, left, picked = heapq.heappop(waiting)
        if picked is not None:
            yield damage, picked
            continue
        base = grid.width_harm(choice)
        if known == WIDTHS:
            left = Decisions.at(grid.start(choice, problem.space), grid, problem)
            if left is not None and (least := bound(left)) is not None:
                heapq.heappush(waiting, (max(damage, base + least), BOUNDED, next(order), choice, left, None))
        elif left is not None and (found := optimum(left, problem)):
            heapq.heappush(waiting, (base + found[0], SOLVED, next(order), choice, None, found[1]))
