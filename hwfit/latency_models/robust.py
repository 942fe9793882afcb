"""Fit the overhead terms of one phase to timed models, robustly, keeping only terms that win leave-one-out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from hwfit.latency_models.overhead import Terms
from hwfit.latency_models.surface import Errors

Array = NDArray[np.float64]
NAMES = ("scale", "block", "constant")
PLAIN = tuple(chain.from_iterable(combinations(NAMES, r) for r in range(len(NAMES) + 1)))
CANDIDATES = (*PLAIN, *((*names, "resident") for names in PLAIN if "scale" in names))
WIN = 0.95  # a larger set of terms must bring the held-out error below this share of a smaller set's,
LEAST = 1e-4  # and at least this much below it
CONFORMAL = 9  # fewest runs of which a 90 % rank exists
SCALES = (0.5, 2.0)  # a scale outside says that the table is wrong, not that there is overhead
RESIDENT = 0.9  # nor does a cache save more of a model's time
FOLDS = 12  # parts that take turns in being held out, where there are more runs than that
CACHED = 0.75  # what a cache must bring the residual of a scale alone below: two more terms always fit a little better
CACHES = 12  # sizes that are tried, from what holds the smallest model to twice the largest or the whole cache
ROUNDS = 20
TIGHTEST = 0.005  # relative residual below which no run counts as an outlier


@dataclass(frozen=True)
class Runs:
    """Timed models, `[runs]` each: summed prices of their ops, kept blocks, bytes read, and seconds of the call.

    `cache` is the bytes of the device's last one, 0 where that is not known.
    """

    ops: Array
    blocks: Array
    read: Array
    seconds: Array
    cache: float = 0.0

    def __len__(self) -> int:
        return len(self.seconds)

    def folds(self) -> Iterator[tuple[NDArray[np.int64], Runs]]:
        """(runs held out, all others): each run is held out once, alone where there are few."""
        for i in range(min(FOLDS, len(self))):
            out = np.arange(i, len(self), FOLDS)
            arrays = {name: np.delete(getattr(self, name), out) for name in ("ops", "blocks", "read", "seconds")}
            yield out, replace(self, **arrays)

    def miss(self, terms: Terms, i: np.integer | int) -> float:
        """Relative error of the terms on run `i`."""
        said = terms.apply(float(self.ops[i]), int(self.blocks[i]), float(self.read[i]))
        return abs(said / float(self.seconds[i]) - 1)


def fit_terms(runs: Runs) -> Terms:
    """Terms minimising the Huber loss of the relative error of `Terms.apply` to `runs.seconds`.

    A set of t terms is tried from t + 2 runs on.
    """
    cache = _cache(runs)
    names = _chosen(runs, cache)
    errors = _errors(runs)
    return replace(_solve(names, runs, cache)[0], error=_ninety(errors, len(names)), runs=len(runs))


def _cache(runs: Runs) -> float:
    """The part of the device's cache that explains the runs best, with a scale; 0 where none does, or too few tell."""
    if len(runs) < 5 or not np.isfinite(runs.read).all():
        return 0.0
    least, most = 1.05 * runs.read.min(), min(2 * runs.read.max(), runs.cache)
    if not 0 < least < most:
        return 0.0
    sizes = np.geomspace(least, most, CACHES)
    residuals = {float(size): _solve(("scale", "resident"), runs, size)[1] for size in sizes}
    best = min(residuals, key=lambda size: residuals[size])
    return best if residuals[best] < CACHED * _solve(("scale",), runs, 0.0)[1] else 0.0


def _chosen(runs: Runs, cache: float) -> tuple[str, ...]:
    """The set of terms with the least mean held-out error; a larger set must win by a margin."""
    errors = _held_out((), runs, cache)
    best: tuple[float, tuple[str, ...]] = (float(np.mean(errors)) if errors else 0.0, ())
    for names in CANDIDATES[1:]:
        errors = _held_out(names, runs, cache)
        mean = float(np.mean(errors)) if errors else math.inf
        if mean < min(WIN * best[0], best[0] - LEAST):
            best = mean, names
    return best[1]


def _errors(runs: Runs) -> list[float]:
    """Relative error of every run when others alone chose the set of terms and fitted it.

    The errors that a set was chosen by are too small for the interval: of many sets the luckiest has won.
    """
    found: list[float] = []
    for out, rest in runs.folds():
        cache = _cache(rest)
        terms, _ = _solve(_chosen(rest, cache), rest, cache)
        found += [runs.miss(terms, i) for i in out]
    return found


def _ninety(errors: list[float], terms: int) -> float:
    """What 90 % of new runs stay within: the split-conformal rank, or Student's t where the runs are too few for it."""
    if not errors:
        return 0.0
    if len(errors) >= CONFORMAL:
        return Errors.of(errors).p90
    return float(t.ppf(0.95, max(1, len(errors) - terms)) * np.sqrt(np.mean(np.square(errors))))


def _held_out(names: tuple[str, ...], runs: Runs, cache: float) -> list[float]:
    """Relative error of every run under a fit to others; empty where the set of terms is not to be had."""
    if (names and len(runs) < len(names) + 2) or ("resident" in names and not cache):
        return []
    found: list[float] = []
    for out, rest in runs.folds():
        terms, _ = _solve(names, rest, cache)
        if not SCALES[0] <= terms.scale <= SCALES[1] or not 0 <= terms.resident <= RESIDENT * terms.scale:
            return []
        found += [runs.miss(terms, i) for i in out]
    return found


def _solve(names: tuple[str, ...], runs: Runs, cache: float) -> tuple[Terms, float]:
    """The named terms by iteratively reweighted least squares (Huber, 1.345 median absolute residuals), and the mean
    absolute relative residual."""
    if not names:
        return Terms(), math.inf
    ops, seconds = runs.ops, runs.seconds
    cached = np.maximum(0.0, 1 - runs.read / cache) if cache else np.zeros_like(seconds)
    columns = {"scale": ops, "block": runs.blocks, "constant": np.ones_like(seconds), "resident": -cached * ops}
    matrix = np.stack([columns[name] for name in names], axis=1) / seconds[:, None]  # [runs, terms]
    target = 1 - (0.0 if "scale" in names else ops / seconds)
    size = np.maximum(np.abs(matrix).max(axis=0), 1e-12)
    weights = np.ones_like(seconds)
    solution, residual = np.zeros(len(names)), np.abs(target)
    for _ in range(ROUNDS):
        root = np.sqrt(weights)
        solution = np.linalg.lstsq(matrix / size * root[:, None], target * root, rcond=None)[0]
        residual = np.abs(matrix / size @ solution - target)
        edge = 1.345 * max(TIGHTEST, 1.4826 * float(np.median(residual)))
        before, weights = weights, np.minimum(1.0, edge / np.maximum(residual, 1e-12))
        if np.abs(weights - before).max() < 1e-6:
            break
    found = dict(zip(names, (solution / size).tolist(), strict=True))
    return Terms(**found, cache=cache if "resident" in names else 0.0), float(residual.mean())
