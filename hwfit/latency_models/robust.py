"""Fit the overhead terms of one phase to timed models, robustly, keeping only terms that win leave-one-out."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from hwfit.latency_models.overhead import Terms
from hwfit.latency_models.surface import Errors

Array = NDArray[np.float64]
NAMES = ("scale", "block", "constant")
CANDIDATES = tuple(chain.from_iterable(combinations(NAMES, r) for r in range(len(NAMES) + 1)))
WIN = 0.95  # a larger set of terms must bring the held-out error below this share of a smaller set's,
LEAST = 1e-4  # and at least this much below it
CONFORMAL = 9  # fewest runs of which a 90 % rank exists
SCALES = (0.5, 2.0)  # a scale outside says that the table is wrong, not that there is overhead
ROUNDS = 20
TIGHTEST = 0.005  # relative residual below which no run counts as an outlier


def fit_terms(ops: Array, blocks: Array, seconds: Array) -> Terms:
    """Terms minimising the Huber loss of the relative error of `scale·ops + block·blocks + constant` to `seconds`.

    All arrays are `[runs]`. A set of t terms is tried from t + 2 runs on.
    """
    names = _chosen(ops, blocks, seconds)
    errors = _errors(ops, blocks, seconds)
    return replace(_solve(names, ops, blocks, seconds), error=_ninety(errors, len(names)), runs=len(seconds))


def _chosen(ops: Array, blocks: Array, seconds: Array) -> tuple[str, ...]:
    """The set of terms with the least mean held-out error; a larger set must win by a margin."""
    errors = _held_out((), ops, blocks, seconds)
    best: tuple[float, tuple[str, ...]] = (float(np.mean(errors)) if errors else 0.0, ())
    for names in CANDIDATES[1:]:
        errors = _held_out(names, ops, blocks, seconds)
        mean = float(np.mean(errors)) if errors else math.inf
        if mean < min(WIN * best[0], best[0] - LEAST):
            best = mean, names
    return best[1]


def _errors(ops: Array, blocks: Array, seconds: Array) -> list[float]:
    """Relative error of every run when the others alone chose the set of terms and fitted it.

    The errors that a set was chosen by are too small for the interval: of eight sets the luckiest has won.
    """
    found = []
    for i in range(len(seconds)):
        rest = _without(i, ops, blocks, seconds)
        found.append(_miss(_solve(_chosen(*rest), *rest), i, ops, blocks, seconds))
    return found


def _ninety(errors: list[float], terms: int) -> float:
    """What 90 % of new runs stay within: the split-conformal rank, or Student's t where the runs are too few for it."""
    if not errors:
        return 0.0
    if len(errors) >= CONFORMAL:
        return Errors.of(errors).p90
    return float(t.ppf(0.95, max(1, len(errors) - terms)) * np.sqrt(np.mean(np.square(errors))))


def _held_out(names: tuple[str, ...], ops: Array, blocks: Array, seconds: Array) -> list[float]:
    """Relative error of every run under the fit to all others; empty where the set of terms is not to be had."""
    if names and len(seconds) < len(names) + 2:
        return []
    found = []
    for i in range(len(seconds)):
        terms = _solve(names, *_without(i, ops, blocks, seconds))
        if not SCALES[0] <= terms.scale <= SCALES[1]:
            return []
        found.append(_miss(terms, i, ops, blocks, seconds))
    return found


def _without(i: int, *arrays: Array) -> tuple[Array, ...]:
    return tuple(np.delete(array, i) for array in arrays)


def _miss(terms: Terms, i: int, ops: Array, blocks: Array, seconds: Array) -> float:
    """Relative error of the terms on run `i`."""
    return abs(terms.apply(float(ops[i]), int(blocks[i])) / float(seconds[i]) - 1)


def _solve(names: tuple[str, ...], ops: Array, blocks: Array, seconds: Array) -> Terms:
    """The named terms by iteratively reweighted least squares (Huber, 1.345 median absolute residuals)."""
    if not names:
        return Terms()
    columns = {"scale": ops, "block": blocks, "constant": np.ones_like(seconds)}
    matrix = np.stack([columns[name] for name in names], axis=1) / seconds[:, None]  # [runs, terms]
    target = 1 - (0.0 if "scale" in names else ops / seconds)
    size = np.abs(matrix).max(axis=0)
    weights = np.ones_like(seconds)
    solution = np.zeros(len(names))
    for _ in range(ROUNDS):
        root = np.sqrt(weights)
        solution = np.linalg.lstsq(matrix / size * root[:, None], target * root, rcond=None)[0]
        residual = np.abs(matrix / size @ solution - target)
        edge = 1.345 * max(TIGHTEST, 1.4826 * float(np.median(residual)))
        before, weights = weights, np.minimum(1.0, edge / np.maximum(residual, 1e-12))
        if np.abs(weights - before).max() < 1e-6:
            break
    return Terms(**dict(zip(names, (solution / size).tolist(), strict=True)))
