"""Recovery: how much of the damage that a choice does at once is left after distillation.

A search that only looks at losses before distillation pays for what distillation mends anyway: rounding to 4 bits
recovers far more than dropped blocks do. A few probes, subnets near the budgets distilled for a moment, say how much of
each kind of damage stays; the additive damage model and measured losses are then read in those terms.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls

from hwfit.search.discretise import WIDTHS, Picked
from hwfit.search.sensitivity import Damage
from hwfit.subnet import LINEARS

Array = NDArray[np.float64]
FLOOR = 1e-3
"""Nats a token below which losses are not told apart."""
PULLS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""How strongly all shares are drawn to one common share, tried by leave-one-out."""


@dataclass(frozen=True)
class Probe:
    """One distilled subnet: `contributions` to its damage, and its validation loss (nats a token) at once and after
    distillation."""

    contributions: tuple[float, ...]
    at_once: float
    distilled: float


@dataclass(frozen=True)
class Recovery:
    """What is left of each kind of damage: `widths` by axis, `precisions` in the space's order, as shares.

    Damages do not quite add up: log(distilled loss) = log(sum of what is left) + `offset`
    + `interaction` x log(measured loss at once / sum of damages at once). `error` is the leave-one-out error of that
    (log scale, root mean square), `error_at_once` that of losses at once times one common factor.
    """

    widths: dict[str, float]
    precisions: tuple[float, ...]
    offset: float
    interaction: float
    error: float
    error_at_once: float
    probes: int

    def scaled(self, damage: Damage) -> Damage:
        """The damage table in terms of what is left of it."""
        shares = torch.tensor(self.precisions, dtype=damage.table.precision.dtype)
        table = {axis: getattr(damage.table, axis) * self.widths[axis] for axis in WIDTHS}
        return replace(
            damage,
            table=replace(
                damage.table,
                **table,
                precision=damage.table.precision * shares,
                lm_head=damage.table.lm_head * shares,
            ),
        )

    def loss(self, left: float, at_once: float, added: float) -> float:
        """Expected loss after distillation of a pick of which `left` remains of `added` damage, `at_once` measured."""
        beyond = np.log(max(at_once, FLOOR) / max(added, FLOOR))
        return max(left, FLOOR) * float(np.exp(self.offset + self.interaction * beyond))

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def contributions(damage: Damage, picked: Picked) -> tuple[float, ...]:
    """`[axes + precisions]`: the damage of each width choice, and the sum of that of all linears at each precision."""
    table = damage.table
    widths = [damage.of_width(picked, axis) for axis in WIDTHS]
    kept = (damage.block_rank < damage.depths[picked.depth]).nonzero()[:, 0].tolist()
    by_precision = np.zeros(table.precision.shape[-1])
    for block in kept:
        for i in range(len(LINEARS)):
            p = picked.precision[block][i]
            by_precision[p] += float(table.precision[block, i, p])
    by_precision[picked.lm_head] += float(table.lm_head[picked.lm_head])
    return (*widths, *map(float, by_precision))


def fit_recovery(probes: Sequence[Probe]) -> Recovery:
    """Non-negative shares, drawn to a common one where the probes cannot tell; each probe's relative error counts."""
    data = _Data.of(probes)
    pull = min(PULLS, key=lambda p: _rms(data.left_out(p)))
    shares, offset, interaction = data.fit(pull)
    at_once = np.log(data.distilled / data.at_once)
    count = len(probes)
    alone = (at_once - at_once.mean()) * count / max(count - 1, 1)  # leave-one-out of a mean
    axes = len(WIDTHS)
    return Recovery(
        dict(zip(WIDTHS, map(float, shares[:axes]), strict=True)),
        tuple(map(float, shares[axes:])),
        offset,
        interaction,
        _rms(data.left_out(pull)),
        _rms(alone),
        count,
    )


@dataclass(frozen=True)
class _Data:
    features: Array  # [probes, axes + precisions]
    at_once: Array  # [probes]
    distilled: Array  # [probes]

    @classmethod
    def of(cls, probes: Sequence[Probe]) -> _Data:
        features = np.array([probe.contributions for probe in probes])
        losses = np.array([[max(p.at_once, FLOOR), max(p.distilled, FLOOR)] for p in probes])
        return cls(features, losses[:, 0], losses[:, 1])

    @cached_property
    def beyond(self) -> Array:
        """Log of measured over added damage at once."""
        return np.log(self.at_once / np.maximum(self.features.sum(1), FLOOR))

    def fit(self, pull: float) -> tuple[Array, float, float]:
        """(shares, offset, interaction)."""
        rows = self.features / self.distilled[:, None]
        common = float(1 / max(rows.sum(1).mean(), FLOOR))
        weight = pull * np.sqrt(np.square(rows).sum(0) + 1e-9)  # as heavy as `pull`^2 times the data of that column
        stacked = np.vstack([rows, np.diag(weight)])
        shares = nnls(stacked, np.concatenate([np.ones(len(rows)), weight * common]))[0]
        residual = np.log(self.distilled / np.maximum(self.features @ shares, FLOOR))
        centred = self.beyond - self.beyond.mean()
        slope = float((centred @ residual) / (centred @ centred + 0.1))
        return shares, float(residual.mean() - slope * self.beyond.mean()), slope

    def left_out(self, pull: float) -> Array:
        """Log errors of each probe under what the others say."""
        errors = []
        for i in range(len(self.distilled)):
            rest = np.arange(len(self.distilled)) != i
            shares, offset, slope = _Data(self.features[rest], self.at_once[rest], self.distilled[rest]).fit(pull)
            left = max(float(self.features[i] @ shares), FLOOR)
            errors.append(np.log(self.distilled[i] / left) - offset - slope * self.beyond[i])
        return np.array(errors)


def random_tastes(damage: Damage, seed: int) -> Damage:
    """The damage table with each axis and precision weighted at random (1/8 to 1): what probes are picked by, so that
    they differ in kind and still are what some search would choose."""
    rng = random.Random(seed)
    widths = {axis: 8 ** -rng.random() for axis in WIDTHS}
    taste = Recovery(widths, tuple(8 ** -rng.random() for _ in range(len(damage.table.lm_head))), 0, 0, 0, 0, 0)
    return taste.scaled(damage)


def _rms(errors: Array) -> float:
    return float(np.sqrt(np.square(errors).mean()))
