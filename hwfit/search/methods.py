"""Methods: strategies as `benchmarks.joint_vs_sequential` compares them, a subnet for every share of a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from hwfit.errors import HwfitError
from hwfit.search.budget import Budget
from hwfit.search.joint import Found, Searcher
from hwfit.search.strategies import strategy_named
from hwfit.search.strategies.base import Strategy
from hwfit.search.strategies.find import found_by, planned
from hwfit.search.strategies.on_supernet import OnSupernet
from hwfit.search.strategies.picks import uniform_precisions

Ladder = dict[float, Found]
"""By share of the budget; shares that a method has nothing for are left out."""
Method = Callable[[Searcher, str, Budget, Sequence[float], str], Ladder]
"""(searcher, name, budget, shares, checkpoint key); raises `HwfitError` if nothing meets the budget."""


def ladder(strategy: str, searcher: Searcher, name: str, budget: Budget, shares: Sequence[float], key: str) -> Ladder:
    """Each share from where the one before it ended. All strategies may evaluate as often."""
    bench, out = OnSupernet(searcher, name, key, strategy), Ladder()
    count = searcher.settings.evaluations or planned(searcher)
    now: Strategy | None = None
    for share in shares:
        scaled = budget.scaled(share)
        if now is None:
            count *= len(uniform_precisions(bench.space))  # one must share them among precisions
            now = strategy_named(strategy)(bench, scaled.as_dict(), count, searcher.settings.seed)
        else:
            now = now.again(scaled.as_dict(), count)
        try:
            out[share] = found_by(now, bench, scaled, count)
        except HwfitError:
            if not out:
                raise
        count = searcher.settings.evaluations or planned(searcher)
    return out


METHODS: Mapping[str, Method] = {
    name: partial(ladder, name) for name in ("joint", "sequential", "bits", "quantise_first", "random")
}
