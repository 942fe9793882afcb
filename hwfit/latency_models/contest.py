"""Contest: contenders judged on cells they have not seen, and intervals that cover what they got wrong there.

Whole shapes (n, k) are held out together, at all numbers of rows: cells of one shape tell on each other.

Intervals are cross-conformal (Vovk, arXiv 1208.0806) in log seconds, by regime of rows: the half width is the rank
ceil(0.9 (cells + 1)) of the errors that the other folds' cells had while they were held out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwfit.latency_models.cells import REGIMES, Array, Cells, Mask, regime
from hwfit.latency_models.conformal import conformal
from hwfit.latency_models.contenders import CONTENDERS, Contender

FOLDS = 5


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

    @cached_property
    def half_widths(self) -> Array:
        """Log half width of each cell's 90 % interval, from the cells of the other folds in its regime."""
        out = np.empty(len(self._logs))
        for f in np.unique(self.fold):
            for mask in self._by_regime.values():
                out[mask & (self.fold == f)] = conformal(self._logs[mask & (self.fold != f)])
        return out

    def coverage(self) -> dict[str, float]:
        """Share of cells inside their intervals, in all and by regime."""
        hit = self._logs <= self.half_widths
        return {"all": float(hit.mean()), **{name: float(hit[mask].mean()) for name, mask in self._by_regime.items()}}

    def width(self) -> float:
        """Mean whole width of the intervals over the prediction."""
        return float(np.mean(np.exp(self.half_widths) - np.exp(-self.half_widths)))

    def quantiles(self) -> dict[str, float]:
        """Log half width by regime for cells not measured at all, from every held-out error."""
        return {name: conformal(self._logs[mask]) for name, mask in self._by_regime.items()}

    @cached_property
    def _logs(self) -> Array:
        """Absolute errors of log seconds."""
        return np.abs(np.log(self.predicted / self.cells.seconds))

    @cached_property
    def _by_regime(self) -> dict[str, Mask]:
        """Which cells each regime that occurs has."""
        found = regime(self.cells.sizes[:, 0])
        return {name: found == i for i, name in enumerate(REGIMES) if (found == i).any()}


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
    step: Callable[[], None] = lambda: None,
    contenders: Mapping[str, Contender] = CONTENDERS,
) -> HeldOut:
    """Every cell predicted by the contender `name` fitted without its fold. `step` is called after each fold."""
    fold, predicted = folds(cells, seed, grouped), np.empty(len(cells))
    for f in np.unique(fold):
        held = fold == f
        predicted[held] = contenders[name](cells.where(~held), seed)(cells.sizes[held])
        step()
    return HeldOut(name, cells, predicted, fold)


def winner(results: Iterable[HeldOut]) -> HeldOut:
    """The least median error."""
    return min(results, key=lambda held: held.median)
