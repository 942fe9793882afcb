"""Features: what a linear's sizes mean on a device: bytes and operations over its roofline, and how tiles fill it.

    memory time    bytes of weights, activations and results over the bandwidth
    compute time   2 m n k over the rate of the narrower operand's arithmetic
    tiles          ceil(m / bm) ceil(n / bn); waves: tiles over multiprocessors; tail: ceil(waves) / waves
    split K        the same tail with 2, 4 or 8 programs a tile
    padding        the share of a tile's rows and columns that are real

Tile and wave quantisation as in Stream-K (arXiv 2301.03598), section 2.
"""

from __future__ import annotations

import numpy as np

from hwfit.latency_models.cells import Array
from hwfit.lut_store.facts import Facts
from hwfit.precision import Precision

LAUNCH = 3e-6
"""Seconds of a call that does nothing (aiconfigurator's own constant for GPUs); the trend only has to be smooth."""
REACHED = 0.8, 0.7
"""Shares of bandwidth and rate that good kernels reach."""
TILES = ((16, 64), (16, 128), (32, 128), (64, 64), (64, 128), (128, 64), (128, 128), (128, 256), (256, 128), (64, 256))
LARGE = TILES[3:4] + TILES[5:]


def roofline(sizes: Array, p: Precision, facts: Facts) -> tuple[Array, Array]:
    """(memory seconds, compute seconds) `[cells]` at the device's best."""
    m, n, k = sizes.T
    weight_bits, act_bits = min(p.weight_bits, 16), min(p.act_bits, 16)
    read = n * k * weight_bits / 8 + m * k * act_bits / 8 + 2 * m * n
    return read / facts.bandwidth, 2 * m * n * k / facts.flops(p.act_bits)


def trend(sizes: Array, p: Precision, facts: Facts) -> Array:
    """Log seconds of a smooth roofline: what models predict the distance from."""
    memory, compute = roofline(sizes, p, facts)
    return np.log(LAUNCH + np.hypot(memory / REACHED[0], compute / REACHED[1]))


def features(sizes: Array, p: Precision, facts: Facts) -> Array:
    """`[cells, features]` of `sizes [cells, 3]`."""
    m, n, k = sizes.T
    memory, compute = roofline(sizes, p, facts)
    columns = [m, n, k, np.log(m), np.log(n), np.log(k), np.log(n * k), np.log(m * n), np.log(m * k), np.log(n / k)]
    columns += [np.log(memory), np.log(compute), np.log(compute / memory)]
    columns += [n * k * min(p.weight_bits, 16) / 8e6, m * k * min(p.act_bits, 16) / 8e6, m * n / 5e5, np.minimum(m, n)]
    columns += [n % 128 == 0, n % 256 == 0, k % 256 == 0, m % 64]
    for bm, bn in TILES:
        waves = np.ceil(m / bm) * np.ceil(n / bn) / facts.multiprocessors
        columns += [np.log(waves), np.ceil(waves) / waves, np.ceil(waves) * (k + 256)]
    for bm, bn in LARGE:
        rows, across = np.ceil(m / bm), np.ceil(n / bn)
        waves = rows * across / facts.multiprocessors
        columns += [np.ceil(split * waves) / (split * waves) for split in (2, 4, 8)]
        columns += [np.ceil(waves), m / (rows * bm), n / (across * bn)]
    return np.stack([np.asarray(c, dtype=np.float64) for c in columns], axis=1)
