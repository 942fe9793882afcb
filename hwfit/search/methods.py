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
"""By share of the budget, the largest first; shares that a method has nothing for are left out."""
Method = Callable[..., Ladder]
"""See `ladder`, whose first argument the method is; raises `HwfitError` if nothing meets the budget."""
FEW = 3
"""Evaluations of a fine rung, and one more for every precision that a whole model is quantised to."""


def ladder(
    strategy: str,
    searcher: Searcher,
    name: str,
    budget: Budget,
    shares: Sequence[float],
    key: str,
    fine: Sequence[float] = (),
) -> Ladder:
    """Each of `shares` from where the one before it ended. All strategies may evaluate as often. Limits that no
    device decides, such as memory, are not shared out but whole.

    `fine` are more shares, above the first one too: each begins where the next larger of `shares` ended (or the first),
    knows all that was evaluated, and is not walked from. No step of any descent is taken for them.
    """
    bench, out = OnSupernet(searcher, name, key, strategy), Ladder()
    uniform = len(uniform_precisions(bench.space))
    count = searcher.settings.evaluations or planned(searcher)
    at: dict[float, Strategy] = {}
    now: Strategy | None = None
    for share in shares:
        limits, most = budget.aimed(share).as_dict(), count
        if now is None:
            most *= uniform  # one strategy must share its evaluations among precisions
            now = strategy_named(strategy)(bench, limits, most, searcher.settings.seed)
        else:
            now = now.again(limits, most)
        try:
            out[share], at[share] = found_by(now, bench, budget.aimed(share), most), now
        except HwfitError:
            if not out:
                raise
    told = {picked: scored for one in at.values() for picked, scored in one.told.items()}
    for share in sorted(set(fine) - set(shares)):
        start = at[min((s for s in at if s >= share), default=max(at))]
        more = start.again(budget.aimed(share).as_dict(), FEW + uniform)
        for picked, scored in told.items():
            more.tell(picked, scored)
        try:
            out[share] = found_by(more, bench, budget.aimed(share), FEW + uniform)
        except HwfitError:
            continue
        told |= more.told
    return dict(sorted(out.items(), reverse=True))


METHODS: Mapping[str, Method] = {
    name: partial(ladder, name) for name in ("joint", "sequential", "bits", "quantise_first", "random")
}
