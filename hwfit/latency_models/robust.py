"""Fit the overhead terms of one phase to timed models, robustly, keeping only terms that win leave-one-out."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray

from hwfit.latency_models.overhead import Terms
from hwfit.latency_models.surface import Errors

Array = NDArray[np.float64]
NAMES = ("scale", "block", "constant")
CANDIDATES = tuple(chain.from_iterable(combinations(NAMES, r) for r in range(len(NAMES) + 1)))
WIN = 0.95  # a larger set of terms must bring the held-out error below this share of a smaller set's
SCALES = (0.5, 2.0)  # a scale outside says that the table is wrong, not that there is overhead
ROUNDS = 20
TIGHTEST = 0.005  # relative residual below which no run counts as an outlier


def fit_terms(ops: Array, blocks: Array, seconds: Array) -> Terms:
    """Terms minimising the Huber loss of the relative error of `scale·ops + block·blocks + constant` to `seconds`.

    All arrays are `[runs]`. A set of t terms is tried from t + 2 runs on.
    """
    best: tuple[float, tuple[str, ...], Errors] | None = None
    for names in CANDIDATES:
        errors = _held_out(names, ops, blocks, seconds)
        if errors and (best is None or float(np.mean(errors)) < WIN * best[0]):
            best = float(np.mean(errors)), names, Errors.of(errors)
    if best is None:
        return Terms()
    _, names, errors = best
    return Terms(**_solve(names, ops, blocks, seconds), error=errors.p90, runs=len(seconds))


def _held_out(names: tuple[str, ...], ops: Array, blocks: Array, seconds: Array) -> list[float]:
    """Relative error of every run under the fit to all others; empty where the set of terms is not to be had."""
    if names and len(seconds) < len(names) + 2:
        return []
    found = []
    for i in range(len(seconds)):
        rest = np.arange(len(seconds)) != i
        terms = Terms(**_solve(names, ops[rest], blocks[rest], seconds[rest]))
        if not SCALES[0] <= terms.scale <= SCALES[1]:
            return []
        found.append(abs(terms.apply(float(ops[i]), int(blocks[i])) / float(seconds[i]) - 1))
    return found


def _solve(names: tuple[str, ...], ops: Array, blocks: Array, seconds: Array) -> dict[str, float]:
    """The named terms by iteratively reweighted least squares (Huber, 1.345 median absolute residuals)."""
    if not names:
        return {}
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
        weights = np.minimum(1.0, edge / np.maximum(residual, 1e-12))
    return dict(zip(names, (solution / size).tolist(), strict=True))
