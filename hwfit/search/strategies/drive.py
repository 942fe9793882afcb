"""Drive: one strategy on one evaluator for a number of evaluations, resumable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwfit.errors import HwfitError
from hwfit.progress import track
from hwfit.search import parallel
from hwfit.search.discretise import Picked
from hwfit.search.strategies.base import Evaluator, Scored, Strategy
from hwfit.search.strategies.losses import Losses


@dataclass(frozen=True)
class Outcome:
    """The best pick, what it scored, and the least loss within the limits after every evaluation (inf before any)."""

    picked: Picked
    scored: Scored
    curve: Sequence[float]

    def after(self, evaluations: int) -> float:
        """The least loss that this many evaluations had found."""
        return self.curve[min(evaluations, len(self.curve)) - 1]


def run_strategy(
    strategy: Strategy,
    evaluator: Evaluator,
    evaluations: int,
    log: Path | None = None,
    name: str = "",
    progress: bool = True,
) -> Outcome:
    """Ask, evaluate and tell until `evaluations` picks are told or the strategy is done.

    Of several processes the first evaluates. `log` keeps every loss: the same command takes those of a killed run from
    it and goes on where that was. Raises `HwfitError` if nothing asked for meets the limits, or a loss is no finite
    number.
    """
    losses, curve = Losses(log, evaluator.key, evaluator.space), list[float]()
    with track(evaluations, f"Evaluating {name}".strip(), progress) as advance:
        while len(curve) < evaluations and (asked := strategy.ask(evaluations - len(curve))):
            for picked in asked:
                strategy.tell(picked, _scored(picked, evaluator, losses))
                best = strategy.best()
                curve.append(best[1].loss if best else math.inf)
                advance(note=f"loss {curve[-1]:.4f}")
    best = strategy.best()
    if best is None:
        raise HwfitError(
            f"{name or 'strategy'}: none of {len(curve)} evaluations meets {dict(strategy.limits)}; "
            "allowed: a larger budget, or more evaluations"
        )
    return Outcome(*best, curve)


def _scored(picked: Picked, evaluator: Evaluator, losses: Losses) -> Scored:
    costs = evaluator.costs(picked)
    if (loss := losses.known.get(picked)) is not None:
        return Scored(loss, costs)
    scored = Scored(parallel.from_first(lambda: evaluator.loss(picked)), costs)
    if not math.isfinite(scored.loss):
        raise HwfitError(f"loss is {scored.loss} for {picked}; what was found before is kept")
    losses.add(picked, scored)
    return scored
