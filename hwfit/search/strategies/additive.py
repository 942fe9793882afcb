"""Additive: the precisions that are best at given widths where damages and costs add up, by HiGHS to optimality."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import csr_array, kron, vstack
from scipy.sparse import eye_array as eye

from hwfit.errors import HwfitError
from hwfit.search.discretise import Picked, Problem
from hwfit.search.knapsack import Decisions
from hwfit.search.strategies.base import ROUNDING, within
from hwfit.search.strategies.quiet import without_stdout

Array = NDArray[np.float64]
NODES = 5000
"""Of the tree of one integer programme, after which the best found so far counts: some 20 s. A limit in seconds would
let a seed find something else on another machine, and processes part."""
DONE, LIMITED, INFEASIBLE = 0, 1, 2
"""What scipy.optimize.milp calls the end of a programme."""
SCALE, TRIES = 1e3, 4
"""Rows of limits are scaled up, so that HiGHS's tolerance of 1e-6 is a small share of a limit."""


def bound(left: Decisions) -> float | None:
    """What the damage within all limits is at least, from shares of options; None if nothing meets them."""
    found = _programme(left, 1 - left.here, whole_numbers=False)
    return None if found is None else float(found.fun)


def optimum(left: Decisions, problem: Problem) -> tuple[float, Picked] | None:
    """Least damage within all limits and its pick; None if nothing meets them."""
    room = 1 - left.here
    for _ in range(TRIES):
        found = _programme(left, room, whole_numbers=True)
        if found is None or found.x is None:
            return None
        chosen = found.x.reshape(left.harm.shape).argmax(1)
        items = np.arange(len(chosen))
        picked = left.picked(chosen)
        if within(problem.cost_of(picked), problem.limits):
            return float(left.harm[items, chosen].sum()), picked
        over = left.moved[:, items, chosen].sum(1) - room
        room = room - 2 * np.maximum(over, ROUNDING)  # HiGHS keeps limits to a tolerance, strategies to the digit
    return None


def _programme(left: Decisions, room: Array, whole_numbers: bool) -> Any:
    """min harm . x with one option an item and moved . x <= room; None if there is no such x."""
    items, options = left.harm.shape
    one = kron(eye(items), np.ones((1, options)))
    rows: Any = vstack([one, csr_array(SCALE * left.moved.reshape(len(room), -1))], format="csr")
    low: Any = np.concatenate([np.ones(items), np.full(len(room), -np.inf)])
    high: Any = np.concatenate([np.ones(items), SCALE * room])
    with without_stdout():
        found = milp(
            left.harm.ravel(),
            integrality=np.full(items * options, int(whole_numbers)),
            bounds=(0, 1),
            constraints=LinearConstraint(rows, low, high),
            options={"mip_rel_gap": 0.0, "node_limit": NODES},
        )
    if found.status == INFEASIBLE:
        return None
    if found.status not in (DONE, LIMITED):
        raise HwfitError(f"HiGHS gave up on an integer programme: {found.message}")
    return found
