"""Feasible: refuse budgets that no subnet of a space keeps, before anything is trained, and say which it could keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hwfit.errors import raise_all
from hwfit.latency_models.whole import WholeModel
from hwfit.search.budget import Budget, format_cost, format_limit
from hwfit.search.costed import Costed
from hwfit.search.costs import ExpectedCosts
from hwfit.search.nearest import TOLERANCE, lowest
from hwfit.space import Space
from hwfit.workload import Workload

ROUNDS = 6
"""Power and floors are linear around a limit only: solved again around what was found, so many times at most."""


def refuse_infeasible(budgets: Iterable[Budget], space: Space, latency: WholeModel, workload: Workload) -> None:
    """Raises `HwfitError` for every budget that no subnet of the space keeps, with the closest that one does.

    `DataMiss` for a space that the table cannot price.
    """
    costs = ExpectedCosts(space, range(space.shape.blocks), latency, workload)
    raise_all([p for budget in budgets for p in Nearby(Costed.of(costs, budget.as_dict())).told(budget)])


@dataclass(frozen=True)
class Nearby:
    """The budgets close to a given one that a space can keep."""

    costed: Costed

    def told(self, budget: Budget) -> list[str]:
        """What is wrong with a budget, one line each; none if a subnet keeps it."""
        found = self.lowest(budget.as_dict(), enough=1.0)
        if found and budget.used(found) <= 1 + TOLERANCE:
            return []
        problems = []
        for metric, limit in budget.limits:
            least = dict(self.scaled(Budget(((metric, limit),))).limits)[metric]
            if least > limit * (1 + TOLERANCE):
                sense, side = ("above the most", "most") if metric == "1/params" else ("below the least", "least")
                problems.append(
                    f"--budget {format_limit(metric, limit)} is {sense} that any subnet of this space takes, "
                    f"{format_cost(metric, least, loosely=True)}; allowed: at {side} that"
                )
        if len(budget.limits) == 1:
            return problems
        closest = "; or ".join(self.closest(budget))
        return [*problems, f"--budget {budget}: no subnet of this space keeps all of these at once; closest: {closest}"]

    def closest(self, budget: Budget) -> list[str]:
        """Feasible budgets close to an infeasible one: all limits scaled alike, and each given way to alone."""
        wide = self.scaled(budget)
        shown = " ".join(format_limit(metric, limit, loosely=True) for metric, limit in wide.limits)
        texts = [f"{shown} (all limits x{wide.limits[0][1] / budget.limits[0][1]:.3g})"]
        for metric, limit in budget.limits:
            costs = self.lowest(budget.as_dict(), [metric])
            if costs and costs[metric] > limit:
                texts.append(f"{format_limit(metric, costs[metric], loosely=True)} with the rest as they are")
        return texts

    def scaled(self, budget: Budget) -> Budget:
        """`budget` times the least factor at which a subnet keeps it."""
        found, factor = budget, 0.0
        for _ in range(ROUNDS):
            costs = self.lowest(found.as_dict())
            if costs is None or (used := budget.used(costs)) == factor:
                break
            found, factor = budget.scaled(used), used
            if not {"power", "1/params"} & set(budget.as_dict()):
                break
        return found

    def lowest(
        self, limits: Mapping[str, float], metrics: Sequence[str] = (), enough: float = 0.0
    ) -> dict[str, float] | None:
        """`nearest.lowest` in the metrics of budgets."""
        found = lowest(self.costed, limits, metrics, enough)
        if found and "params" in found:
            found["1/params"] = 1 / found["params"]
        if found and "energy" in found and "decode" in found:
            found["power"] = self.costed.batch * found["energy"] / found["decode"]
        return found
