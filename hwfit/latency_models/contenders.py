"""Contenders: ways to predict the latency of linears that were not measured, behind one interface.

Each takes measured cells and gives a function from sizes `[queries, 3]` to seconds `[queries]`. Which one to trust is
decided by `contest`, per device and precision.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import numpy as np
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from scipy.optimize import nnls
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor, RandomForestRegressor

from hwfit.latency_models.cells import Array, Cells
from hwfit.latency_models.features import features, roofline, trend

Predictor = Callable[[Array], Array]
Contender = Callable[[Cells, int], Predictor]
BAGS = 3
KEPT = 6
"""Fits that are remembered: those of a contest's folds."""


def nearest(cells: Cells, seed: int) -> Predictor:
    """The measured cell nearest in log sizes, scaled by the roofline between the two."""
    lookup = NearestNDInterpolator(np.log(cells.sizes), np.log(cells.seconds) - _trend(cells, cells.sizes))
    return lambda sizes: np.exp(lookup(np.log(sizes)) + _trend(cells, sizes))


def interpolation(cells: Cells, seed: int) -> Predictor:
    """Linear in log sizes on a Delaunay triangulation; the nearest cell, scaled, outside."""
    logs = np.log(cells.sizes)
    inside = LinearNDInterpolator(logs, np.log(cells.seconds), rescale=True)
    outside = nearest(cells, seed)

    def predict(sizes: Array) -> Array:
        found = np.exp(inside(np.log(sizes)))
        return np.where(np.isnan(found), outside(sizes), found)

    return predict


def analytic(cells: Cells, seed: int) -> Predictor:
    """A constant, memory and compute time, and their larger one, weighted by nonnegative least relative squares."""

    def parts(sizes: Array) -> Array:
        memory, compute = roofline(sizes, cells.precision, cells.facts)
        return np.stack([np.full(len(sizes), 1e-6), memory, compute, np.maximum(memory, compute)], axis=1)

    weights, _ = nnls(parts(cells.sizes) / cells.seconds[:, None], np.ones(len(cells)))
    return lambda sizes: np.maximum(parts(sizes) @ weights, 1e-9)


def random_forest(cells: Cells, seed: int) -> Predictor:
    """On the bare sizes, as vidur does (arXiv 2405.05465, section 4.3)."""
    model = RandomForestRegressor(200, n_jobs=-1, random_state=seed).fit(cells.sizes, cells.seconds)
    return lambda sizes: np.asarray(model.predict(sizes))


def extra_trees(cells: Cells, seed: int) -> Predictor:
    """Extremely randomised trees on the distance from the roofline."""
    return _on_features(ExtraTreesRegressor(200, max_features=0.6, n_jobs=-1, random_state=seed), cells)


def _kept(contender: Contender) -> Contender:
    """The same contender, remembering its last few fits: another one may build on them in the same contest."""
    fits: dict[tuple, Predictor] = {}

    @wraps(contender)
    def fit(cells: Cells, seed: int) -> Predictor:
        key = cells.sizes.tobytes(), cells.seconds.tobytes(), cells.precision, cells.facts, seed
        if key not in fits:
            if len(fits) >= KEPT:
                fits.pop(next(iter(fits)))
            fits[key] = contender(cells, seed)
        return fits[key]

    return fit


@_kept
def boosting(cells: Cells, seed: int) -> Predictor:
    """Gradient boosting for the median of the distance from the roofline, a few bags averaged.

    The absolute error, not the square: kernels are chosen by rules that jump, and a mean between two of them is the
    time of neither.
    """
    bags = [
        _on_features(
            HistGradientBoostingRegressor(
                loss="absolute_error",
                max_iter=700,
                learning_rate=0.06,
                max_leaf_nodes=63,
                min_samples_leaf=10,
                l2_regularization=1.0,
                max_features=0.3,
                random_state=BAGS * seed + bag,
            ),
            cells,
        )
        for bag in range(BAGS)
    ]
    return lambda sizes: np.exp(np.mean([np.log(bag(sizes)) for bag in bags], axis=0))


def both(cells: Cells, seed: int) -> Predictor:
    """Geometric mean, 7 parts boosting and 3 parts extra trees: better where kernels change little, worse elsewhere."""
    pair = boosting(cells, seed), extra_trees(cells, seed)
    return lambda sizes: np.exp(np.average([np.log(one(sizes)) for one in pair], axis=0, weights=(0.7, 0.3)))


CONTENDERS: dict[str, Contender] = {
    "nearest": nearest,
    "interpolation": interpolation,
    "roofline": analytic,
    "random forest": random_forest,
    "extra trees": extra_trees,
    "boosting": boosting,
    "boosting and extra trees": both,
}


def _trend(cells: Cells, sizes: Array) -> Array:
    return trend(sizes, cells.precision, cells.facts)


def _on_features(model: ExtraTreesRegressor | HistGradientBoostingRegressor, cells: Cells) -> Predictor:
    """`model` fitted to log seconds above the roofline's."""
    p, facts = cells.precision, cells.facts
    model.fit(features(cells.sizes, p, facts), np.log(cells.seconds) - _trend(cells, cells.sizes))
    return lambda sizes: np.exp(np.asarray(model.predict(features(sizes, p, facts))) + _trend(cells, sizes))
