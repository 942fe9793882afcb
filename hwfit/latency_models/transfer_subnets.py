"""Whole subnets chosen with a prediction of a device, scored on that device's own table.

A front of weights kept against latency: for every number of weights, the subnet that the prediction says is fastest.
Linears of the blocks only, which is what tables of different devices share.
"""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray

from hwfit.latency_models.cells import Array, Cells
from hwfit.latency_models.transfer import Pair
from hwfit.space import Space
from hwfit.subnet import LINEARS, ModelShape

LLAMA_8B = ModelShape(hidden=4096, heads=32, kv_heads=8, head_size=128, mlp=14336, blocks=32, vocab=128256)
DRAWN, LEVELS = 2000, 25


def front_regret(pair: Pair, predicted: Array, shape: ModelShape, m: int, seed: int = 0) -> float:
    """What B loses, as a share, with the front chosen by `predicted [cells, precisions]`, mean over the front.

    Of `DRAWN` random subnets of `shape`, widths and depth shared by the blocks and one precision a kind of linear, the
    fastest that keeps a number of weights is chosen, at `LEVELS` numbers; `m` is the rows of every linear.
    """
    sizes, choice, count, weights = _draw(shape, len(pair.precisions), seed)
    guess, truth = (
        _seconds(pair, table, sizes, choice, m) @ np.ones(len(LINEARS)) * count for table in (predicted, pair.b)
    )
    regrets = []
    for level in np.quantile(weights, np.linspace(0, 0.99, LEVELS)):
        enough = np.flatnonzero(weights >= level)
        chosen = enough[guess[enough].argmin()]
        regrets.append(truth[chosen] / truth[enough].min() - 1)
    return float(np.mean(regrets))


def _draw(shape: ModelShape, precisions: int, seed: int) -> tuple[Array, NDArray[np.int64], Array, Array]:
    """(n and k `[subnets, 7, 2]`, precision `[subnets, 7]`, blocks `[subnets]`, weights `[subnets]`)."""
    space, rng = Space.default(shape, ("w16a16",), "w16a16", 256), random.Random(seed)
    drawn = [space.sample(rng) for _ in range(DRAWN)]
    sizes = np.array([[spec[:2] for spec in s.block_linears(0).values()] for s in drawn], dtype=np.float64)
    blocks = np.array([len(s.blocks) for s in drawn], dtype=np.float64)
    choice = np.random.default_rng(seed).integers(0, precisions, sizes.shape[:2])
    return sizes, choice, blocks, sizes.prod(-1).sum(-1) * blocks


def _seconds(pair: Pair, table: Array, sizes: Array, choice: NDArray[np.int64], m: int) -> Array:
    """Seconds of each linear `[subnets, 7]`, log-interpolated between the cells of `m` rows."""
    from hwfit.latency_models.contenders import interpolation  # scikit-learn takes a second to load

    out = np.empty(choice.shape)
    rows = pair.sizes[:, 0] == m
    for i, precision in enumerate(pair.precisions):
        there = rows & np.isfinite(table[:, i])
        # a second plane of cells lets the three-dimensional interpolation work on one number of rows
        cells = np.concatenate([pair.sizes[there] * [factor, 1, 1] for factor in (1, 2)])
        predict = interpolation(Cells(cells, np.tile(table[there, i], 2), precision, pair.facts_b), 0)
        mine = choice == i
        out[mine] = predict(np.column_stack([np.full(int(mine.sum()), m), sizes[mine]]))
    return out
