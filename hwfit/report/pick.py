"""Pick: the row of a finished run that is best among those that keep a budget as measured, and why no other is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hwfit.errors import HwfitError, nearest, raise_all
from hwfit.latency_models.memory import memory
from hwfit.report.dominance import perplexity_of, time_of
from hwfit.report.results import FILE, Results, Row
from hwfit.search.budget import Budget, format_limit
from hwfit.search.front import Interval
from hwfit.workload import PHASES

SIGMAS = 1.96


@dataclass(frozen=True)
class Judged:
    """A row, what it takes by metric, which limits it breaks as measured, and its quality (lower is better)."""

    row: Row
    costs: Mapping[str, Interval]
    broken: tuple[str, ...]
    quality: Interval


@dataclass(frozen=True)
class Pick:
    """`best` keeps all limits; so do `others`, best first; `rejected` do not, closest first."""

    best: Judged
    others: tuple[Judged, ...]
    rejected: tuple[Judged, ...]

    @property
    def level(self) -> tuple[Judged, ...]:
        """Those of `others` that the intervals do not tell from the best."""
        return tuple(one for one in self.others if one.quality.low <= self.best.quality.high)


def pick_row(results: Results, budget: Budget, by: str = "perplexity") -> Pick:
    """The best row by `by`. Raises `HwfitError` for limits on what the run has not measured, or if no row keeps all."""
    if by not in QUALITIES:
        raise HwfitError(f"--by '{by}' is unknown; {nearest(by, QUALITIES)}")
    judged = [_judged(row, results, budget, by) for row in results.rows]
    fitting = sorted((one for one in judged if not one.broken), key=lambda one: (one.quality, one.costs["decode"]))
    rejected = sorted((one for one in judged if one.broken), key=lambda one: _used(one, budget))
    if not fitting:
        closest = rejected[0]
        limits = [f"--budget {_quoted(t)}" for t in str(budget).split()]
        needs = " ".join(format_limit(m, closest.costs[m].value, loosely=True) for m in closest.broken)
        raise HwfitError(
            f"no model of this run keeps {budget} as measured; closest: '{closest.row.name}', which needs {needs} "
            f"(x{_used(closest, budget):.3g}); search for the budget itself with "
            f"`{' '.join(['hwfit search MODEL', *limits, *results.workload.options])}`"
        )
    return Pick(fitting[0], tuple(fitting[1:]), tuple(rejected))


def costs_of(row: Row, results: Results) -> dict[str, Interval]:
    """What a row takes by metric: measured times with their intervals, and what it stores, which has none."""
    cache = memory(row.subnet, results.workload.context, results.workload.batch, results.machine.get("key", "cpu"))
    stored = {
        "memory": row.size_bytes + cache - row.subnet.weight_bytes,
        "disk": row.size_bytes,
        "params": row.subnet.params,
        "1/params": 1 / row.subnet.params,
    }
    return {phase: time_of(row, phase) for phase in PHASES} | {m: Interval.around(v) for m, v in stored.items()}


def _accuracy(row: Row) -> Interval:
    """Share of wrong answers."""
    assert row.accuracy_mean is not None
    reach = SIGMAS * (row.accuracy_stderr or 0.0)
    wrong = 1 - row.accuracy_mean
    return Interval(wrong, wrong - reach, wrong + reach)


QUALITIES: Mapping[str, Callable[[Row], Interval]] = {"perplexity": perplexity_of, "accuracy": _accuracy}


def _judged(row: Row, results: Results, budget: Budget, by: str) -> Judged:
    costs = costs_of(row, results)
    unknown = [
        f"--budget {format_limit(metric, limit)}: {FILE} of this run has no {metric}; allowed: {', '.join(costs)}"
        for metric, limit in budget.limits
        if metric not in costs
    ]
    if by == "accuracy" and row.accuracy_mean is None:
        unknown.append(f"--by accuracy: '{row.name}' was never scored; allowed: perplexity")
    raise_all(unknown)
    broken = tuple(metric for metric, limit in budget.limits if costs[metric].value > limit)
    return Judged(row, costs, broken, QUALITIES[by](row))


def _used(one: Judged, budget: Budget) -> float:
    return budget.used({metric: cost.value for metric, cost in one.costs.items()})


def _quoted(text: str) -> str:
    return f"'{text}'" if ">" in text else text
