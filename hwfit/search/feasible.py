"""Feasible: refuse budgets that no subnet of a space keeps, before anything is trained, and say which it could keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from hwfit.errors import raise_all
from hwfit.latency_models.whole import WholeModel
from hwfit.search.budget import Budget, format_cost, format_limit
from hwfit.search.costed import Costed
from hwfit.search.costs import ExpectedCosts
from hwfit.search.nearest import TOLERANCE, lowest
from hwfit.space import Space
from hwfit.workload import Workload

LINEARISED, ROUNDS = {"power", "1/params"}, 6
"""Shares of these are linear around a limit only: solved again around what was found, so many times at most."""


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
            least = self.fitting(Budget(((metric, limit),)))[metric]
            if least > limit * (1 + TOLERANCE):
                sense, side = ("above the most", "most") if metric == "1/params" else ("below the least", "least")
                problems.append(
                    f"{budget.flag} {format_limit(metric, limit)} is {sense} that any subnet of this space takes, "
                    f"{format_cost(metric, least, loosely=True)}; allowed: at {side} that"
                )
        if len(budget.limits) == 1:
            return problems
        closest = "; or ".join(self.closest(budget))
        together = f"{budget.flag} {budget}: no subnet of this space keeps all of these at once; closest: {closest}"
        return [*problems, together]

    def closest(self, budget: Budget) -> list[str]:
        """Feasible budgets close to an infeasible one: all limits times the least factor, or one of them alone."""
        costs = self.fitting(budget)
        wide = [(metric, max(limit, costs[metric])) for metric, limit in budget.limits]
        shown = " ".join(format_limit(metric, limit, loosely=True) for metric, limit in wide)
        texts = [f"{shown} (x{budget.used(costs):.3g} at most)"]
        for metric, limit in budget.limits:
            costs = self.fitting(budget, [metric])
            alone = format_limit(metric, costs[metric], loosely=True) if costs else ""
            if costs and costs[metric] > limit and alone not in shown:
                texts.append(f"{alone} with the rest as they are")
        return texts

    def fitting(self, budget: Budget, metrics: Sequence[str] = ()) -> dict[str, float]:
        """The costs of a subnet that keeps `budget` with all limits (or those on `metrics`) times the least factor at
        which any does; {} if none does."""
        wide = {m: limit for m, limit in budget.limits if not metrics or m in metrics}
        found: dict[str, float] = {}
        best = inf
        for _ in range(ROUNDS if LINEARISED & set(wide) else 1):
            limits = {m: limit * (best if m in wide and found else 1) for m, limit in budget.limits}
            costs = self.lowest(limits, metrics)
            factor = max(costs[m] / limit for m, limit in wide.items()) if costs else inf
            if costs is None or factor >= best:
                break
            found, best = costs, factor
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
