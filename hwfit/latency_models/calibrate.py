"""Calibrate: a device's latencies from another's table and a few measurements of its own.

log(B / A) is the difference of the two rooflines plus a Gaussian process over the sizes, the precision, what bounds a
layer and whether it fits the L2 on either device, and how far A is from its own roofline there. Where tables of further
devices are given, log(other / A) above the rooflines enters linearly: what relatives of B share is then learned from a
few measurements (few-shot transfer over reference devices as in HELP, arXiv 2106.08630, for single layers).

Hyperparameters are maximum-likelihood fits on published GPU pairs rounded to one digit: 50 measurements cannot tell
them. Measurements are chosen one after another for the largest reduction of the mean variance over all cells
(Cohn, Active learning with statistical models, arXiv cs/9603104, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.distance import cdist

from hwfit.latency_models.cells import Array, regime
from hwfit.latency_models.conformal import conformal
from hwfit.latency_models.features import LAUNCH, roofline, trend
from hwfit.latency_models.transfer import Pair
from hwfit.lut_store.facts import Facts
from hwfit.precision import Precision

Index = NDArray[np.int64]
CONSTANT, SMOOTH, LINEAR, OWN = 0.1, 0.08, 0.03, 0.35
"""Prior variances, shared by the precisions: an offset, a smooth function of the sizes, a linear one of what bounds the
layer, and a share of A's distance from its roofline."""
APART = 0.3
"""Variance of the same for each precision on its own, as a share."""
LENGTH = 4.0
"""Doublings of m, n or k over which the smooth function changes; half of it for a precision on its own."""
NOISE = 0.008
RELATED, LEFT = 0.25, 0.3
"""Variance of another device's weight, and what share of the other variances is left once relatives are known."""
TARGETS, CANDIDATES = 600, 1500
"""Random (cell, precision) that the choice of measurements looks at."""


@dataclass(frozen=True)
class _Inputs:
    """One row a (cell, precision)."""

    logs: Array  # [rows, 3] doublings of m, n, k
    bounds: Array  # [rows, features]
    own: Array  # [rows] A's log distance from its roofline
    others: Array  # [rows, devices] log(other / A) above the rooflines
    precision: Index  # [rows]

    def __getitem__(self, rows: Index) -> _Inputs:
        return _Inputs(self.logs[rows], self.bounds[rows], self.own[rows], self.others[rows], self.precision[rows])


@dataclass(frozen=True)
class Calibrated:
    """B's seconds `[cells, precisions]`, as measured at the chosen; `half_width` of 9 in 10 others in log seconds."""

    seconds: Array
    half_width: float


def shots(pair: Pair, count: int, seed: int = 0) -> Index:
    """Which (cell, precision) to measure on B, `[count, 2]`; chosen without any measurement of B."""
    generator = np.random.default_rng(seed)
    there = np.argwhere(np.isfinite(pair.b))
    share = 1 / np.bincount(regime(pair.sizes[:, 0]))[regime(pair.sizes[there[:, 0], 0])]  # regimes count the same
    limits = TARGETS, max(CANDIDATES, count)
    draws = [generator.choice(len(there), min(n, len(there)), False, share / share.sum()) for n in limits]
    inputs = _inputs(pair)
    flat = there[:, 0] * len(pair.precisions) + there[:, 1]
    targets, candidates = (inputs[flat[draw]] for draw in draws)
    cross, own = _kernel(targets, candidates), _kernel(candidates, candidates)
    chosen: list[int] = []
    for _ in range(min(count, len(draws[1]))):
        gain = (cross**2).sum(0) / (np.diag(own) + NOISE)
        gain[chosen] = -1
        best = int(gain.argmax())
        chosen.append(best)
        row, scale = own[best].copy(), own[best, best] + NOISE
        cross -= np.outer(cross[:, best], row) / scale
        own -= np.outer(row, row) / scale
    return there[draws[1][chosen]]


def calibrated(pair: Pair, chosen: Index) -> Calibrated:
    """Predict B from A, the rooflines, the other devices, and B's own seconds at `chosen [count, 2]`."""
    prior = _prior(pair, pair.facts_b)
    if not len(chosen):
        return Calibrated(pair.a * np.exp(prior), float("inf"))
    inputs = _inputs(pair)
    at = chosen[:, 0] * len(pair.precisions) + chosen[:, 1]
    seen = inputs[at]
    truth = np.log(pair.b / pair.a) - prior
    factor = cho_factor(_kernel(seen, seen) + NOISE * np.eye(len(at)))
    weights = cho_solve(factor, truth.ravel()[at])
    moved = (_kernel(inputs, seen) @ weights).reshape(pair.a.shape)
    seconds = pair.a * np.exp(prior + moved)
    seconds[chosen[:, 0], chosen[:, 1]] = pair.b[chosen[:, 0], chosen[:, 1]]
    # leave-one-out errors in closed form: Rasmussen and Williams (2006), eq. 5.12
    errors = weights / np.diag(cho_solve(factor, np.eye(len(at))))
    return Calibrated(seconds, conformal(np.abs(errors)))


def _kernel(x: _Inputs, y: _Inputs) -> Array:
    """Prior covariance `[rows of x, rows of y]`."""
    same = (x.precision[:, None] == y.precision[None]).astype(np.float64)
    near, nearer = (np.exp(-0.5 * cdist(x.logs / at, y.logs / at, "sqeuclidean")) for at in (LENGTH, LENGTH / 2))
    linear = LINEAR * (x.bounds @ y.bounds.T)
    shared = CONSTANT + SMOOTH * near + linear + OWN * np.outer(x.own, y.own)
    alone = CONSTANT + SMOOTH * nearer + linear
    related = x.others @ y.others.T
    left = LEFT if x.others.shape[1] else 1.0
    return left * (shared + APART * same * alone) + RELATED * related * (1 + 0.1 * same)


def _inputs(pair: Pair) -> _Inputs:
    """All (cell, precision), precisions of a cell together."""
    columns = len(pair.precisions)
    bounds = np.stack([_bounds(pair, p) for p in pair.precisions], 1)
    own = np.log(pair.a) - np.stack([trend(pair.sizes, p, pair.facts_a) for p in pair.precisions], 1)
    others = [np.log(o.seconds / pair.a) - _prior(pair, o.facts) for o in pair.others]
    related = np.stack(others, -1) if others else np.zeros((*pair.a.shape, 0))
    return _Inputs(
        logs=np.log2(pair.sizes).repeat(columns, 0),
        bounds=bounds.reshape(-1, bounds.shape[-1]),
        own=np.nan_to_num(own).ravel(),
        others=np.nan_to_num(related).reshape(own.size, -1),
        precision=np.tile(np.arange(columns), len(pair.sizes)),
    )


def _prior(pair: Pair, facts: Facts) -> Array:
    """log(device / A) `[cells, precisions]` as the two rooflines have it."""
    return np.stack([trend(pair.sizes, p, facts) - trend(pair.sizes, p, pair.facts_a) for p in pair.precisions], 1)


def _bounds(pair: Pair, p: Precision) -> Array:
    """`[cells, features]` in about -1…1: memory- or compute-bound, launch-bound, weights beyond the L2, idle tiles."""
    m, n, k = pair.sizes.T
    columns = []
    for facts in (pair.facts_a, pair.facts_b):
        memory, compute = roofline(pair.sizes, p, facts)
        columns += [
            np.tanh(np.log(compute / memory) / 2),
            np.tanh((np.log(LAUNCH / np.hypot(memory, compute)) + 1) / 1.5),
        ]
        reads = memory / (memory + compute + LAUNCH)
        cached = n * k * min(p.weight_bits, 16) / 8 / (facts.l2 or 1)
        columns += [reads / (1 + (half * cached) ** -3) for half in (1, 2)]
        waves = np.ceil(m / 128) * np.ceil(n / 128) / facts.multiprocessors
        columns.append(np.log(np.ceil(waves) / waves).clip(0, 2))
    return np.stack(columns, 1)
