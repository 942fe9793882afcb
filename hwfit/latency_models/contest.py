"""Contest: contenders judged on cells they have not seen, and intervals that cover what they got wrong there.

Whole shapes (n, k) are held out together, at all numbers of rows: cells of one shape tell on each other.

Intervals are cross-conformal (Vovk, arXiv 1208.0806) in log seconds, by regime of rows: the half width is the rank
ceil(0.9 (cells + 1)) of the errors that the other folds' cells had while they were held out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwfit.latency_models.cells import REGIMES, Array, Cells, regime
from hwfit.latency_models.contenders import CONTENDERS, Contender

FOLDS = 5
COVER = 0.9


@dataclass(frozen=True)
class HeldOut:
    """What a contender said of each cell while the cell was held out."""

    contender: str
    cells: Cells
    predicted: Array  # seconds
    fold: NDArray[np.int64]

    @property
    def errors(self) -> Array:
        """Relative, as a share of what was measured."""
        return np.abs(self.predicted / self.cells.seconds - 1)

    @property
    def median(self) -> float:
        return float(np.median(self.errors))

    def within(self, share: float) -> float:
        return float(np.mean(self.errors <= share))

    def half_widths(self) -> Array:
        """Log half width of each cell's 90 % interval, from the cells of the other folds in its regime."""
        logs, regimes = np.abs(np.log(self.predicted / self.cells.seconds)), regime(self.cells.sizes[:, 0])
        out = np.empty(len(logs))
        for f in np.unique(self.fold):
            for r in np.unique(regimes):
                mine, others = (self.fold == f) & (regimes == r), (self.fold != f) & (regimes == r)
                out[mine] = conformal(logs[others])
        return out

    def coverage(self) -> dict[str, float]:
        """Share of cells inside their intervals, in all and by regime."""
        hit = np.abs(np.log(self.predicted / self.cells.seconds)) <= self.half_widths()
        regimes = regime(self.cells.sizes[:, 0])
        by = {name: float(hit[regimes == i].mean()) for i, name in enumerate(REGIMES) if (regimes == i).any()}
        return {"all": float(hit.mean()), **by}

    def width(self) -> float:
        """Mean whole width of the intervals over the prediction."""
        half = self.half_widths()
        return float(np.mean(np.exp(half) - np.exp(-half)))

    def quantiles(self) -> dict[str, float]:
        """Log half width by regime for cells not measured at all, from every held-out error."""
        logs, regimes = np.abs(np.log(self.predicted / self.cells.seconds)), regime(self.cells.sizes[:, 0])
        return {name: conformal(logs[regimes == i]) for i, name in enumerate(REGIMES) if (regimes == i).any()}


def conformal(errors: Array, cover: float = COVER) -> float:
    """The split-conformal rank of `errors`; the largest where there are too few for it."""
    if not len(errors):
        return float("inf")
    rank = min(len(errors), int(np.ceil(cover * (len(errors) + 1))))
    return float(np.sort(errors)[rank - 1])


def folds(cells: Cells, seed: int, grouped: bool = True) -> NDArray[np.int64]:
    """Fold of each cell; with `grouped`, cells of one shape share it."""
    generator = np.random.default_rng(seed)
    groups = cells.shapes if grouped else np.arange(len(cells))
    return generator.permutation(int(groups.max()) + 1)[groups] % FOLDS


def hold_out(
    name: str,
    cells: Cells,
    seed: int = 0,
    grouped: bool = True,
    contender: Contender | None = None,
    step: Callable[[], None] = lambda: None,
) -> HeldOut:
    """Every cell predicted by the contender `name` fitted without its fold. `step` is called after each fold."""
    fold, predicted = folds(cells, seed, grouped), np.empty(len(cells))
    for f in np.unique(fold):
        held = fold == f
        predicted[held] = (contender or CONTENDERS[name])(cells.where(~held), seed)(cells.sizes[held])
        step()
    return HeldOut(name, cells, predicted, fold)


def winner(results: Iterable[HeldOut]) -> HeldOut:
    """The least median error."""
    return min(results, key=lambda held: held.median)
