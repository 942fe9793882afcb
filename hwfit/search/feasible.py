"""Feasible: refuse budgets that no subnet of a space keeps, before anything is trained, and say which it could keep."""

from __future__ import annotations

from collections.abc import Iterable

from hwfit.errors import raise_all
from hwfit.latency_models.whole import WholeModel
from hwfit.search.budget import Budget, format_cost, format_limit
from hwfit.search.costed import TOLERANCE, Costed
from hwfit.search.costs import ExpectedCosts
from hwfit.space import Space
from hwfit.workload import Workload


def refuse_infeasible(budgets: Iterable[Budget], space: Space, latency: WholeModel, workload: Workload) -> None:
    """Raises `HwfitError` for every budget that no subnet of the space keeps, with the closest that one does.

    `DataMiss` for a space that the table cannot price.
    """
    costs = ExpectedCosts(space, range(space.shape.blocks), latency, workload)
    raise_all([problem for budget in budgets for problem in _problems(budget, Costed.of(costs, budget.as_dict()))])


def _problems(budget: Budget, costed: Costed) -> list[str]:
    found = costed.lowest(enough=1.0)
    if found and budget.used(found) <= 1 + TOLERANCE:
        return []
    problems = []
    for metric, limit in budget.limits:
        least = dict(_scaled(Budget(((metric, limit),)), costed).limits)[metric]
        if least > limit * (1 + TOLERANCE):
            sense, side = ("above the most", "most") if metric == "1/params" else ("below the least", "least")
            problems.append(
                f"--budget {format_limit(metric, limit)} is {sense} that any subnet of this space takes, "
                f"{format_cost(metric, least, loosely=True)}; allowed: at {side} that"
            )
    if len(budget.limits) == 1:
        return problems
    closest = "; or ".join(_closest(budget, costed))
    return [*problems, f"--budget {budget}: no subnet of this space keeps all of these at once; closest: {closest}"]


def _closest(budget: Budget, costed: Costed) -> list[str]:
    """Feasible budgets close to an infeasible one: all limits scaled alike, and each given way to alone."""
    wide = _scaled(budget, costed)
    shown = " ".join(format_limit(metric, limit, loosely=True) for metric, limit in wide.limits)
    texts = [f"{shown} (all limits x{wide.limits[0][1] / budget.limits[0][1]:.3g})"]
    for metric, limit in budget.limits:
        costs = costed.lowest([metric])
        if costs and costs[metric] > limit:
            texts.append(f"{format_limit(metric, costs[metric], loosely=True)} with the rest as they are")
    return texts


def _scaled(budget: Budget, costed: Costed) -> Budget:
    """`budget` times the least factor at which a subnet keeps it."""
    found = budget
    for _ in range(
        4 if "power" in budget.as_dict() else 1
    ):  # power is linear around a limit only, and solved again there
        if costs := costed.within(found.as_dict()).lowest():
            found = budget.scaled(budget.used(costs))
    return found
