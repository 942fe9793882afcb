"""Find: one subnet for one budget on the supernet, by any strategy."""

from __future__ import annotations

from hwfit.search.budget import Budget
from hwfit.search.joint import Found, Searcher
from hwfit.search.strategies import strategy_named
from hwfit.search.strategies.base import Strategy
from hwfit.search.strategies.drive import run_strategy
from hwfit.search.strategies.on_supernet import OnSupernet
from hwfit.search.strategies.picks import uniform_precisions


def find(
    searcher: Searcher, strategy: str, name: str, budget: Budget, key: str, evaluations: int | None = None
) -> Found:
    """What `strategy` finds for one budget in so many evaluations (default: those of the searcher's settings)."""
    settings = searcher.settings
    asked = evaluations or settings.evaluations
    bench = OnSupernet(searcher, name, key, strategy, None if asked else settings.trials)
    count = asked or planned(searcher)
    now = strategy_named(strategy)(bench, budget.as_dict(), count, settings.seed)
    return found_by(now, bench, budget, count)


def planned(searcher: Searcher) -> int:
    """Evaluations of one search by default: two ends of a descent, picks of the damage model, a walk, and one for
    every precision that a whole model is quantised to."""
    settings = searcher.settings
    return 2 + settings.candidates + settings.trials + len(uniform_precisions(searcher.study.space))


def found_by(strategy: Strategy, bench: OnSupernet, budget: Budget, evaluations: int) -> Found:
    """What a strategy finds on `bench`, where every loss is kept: a killed search goes on where it was."""
    searcher = bench.searcher
    path = searcher.folder / f"losses-{bench.name}.jsonl"
    outcome = run_strategy(strategy, bench, evaluations, path, bench.name, searcher.progress)
    subnet = outcome.picked.subnet(bench.space, searcher.order)
    return Found(bench.name, budget, outcome.picked, subnet, tuple(bench.log), strategy.freedom, strategy.guided)
