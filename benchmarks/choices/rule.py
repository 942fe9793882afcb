"""Rule: in which direction the choices of two settings must differ, from their tables alone.

    share P        A precision is chosen less, the more time it takes than each linear's fastest precision, in shares
                   of the fastest uniform model. Above 1 nobody can afford it everywhere, and 1 stands for all of that.
    kept AXIS      An axis is cut more, the larger its part in what structure can save: the time saved by its smallest
                   choice alone, each linear at its fastest precision, over the sum of this for all axes.

Budgets are relative and damages the same everywhere, so only such relative times can make two choices differ. Where
two settings are within `CLOSE` of each other nothing is predicted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.choices.setting import CLASSES, KINDS, Setting
from hwfit.search.discretise import Picked
from hwfit.space import AXES, LINEAR_WIDTHS, Space

CLOSE = 0.05
OUTCOMES = ("borne out", "alike", "against")
TIE = 0.005
"""Shares below which two choices count as alike."""
Observed = Mapping[str, float]


@dataclass(frozen=True)
class Told:
    """What a table tells. `saved` is the time that an axis' smallest choice saves alone, as a share of the whole;
    `pull` has the names of `observed`: the more of it, the larger the share or the more is kept."""

    regret: Mapping[str, float]
    saved: Mapping[str, float]

    @classmethod
    def by(cls, seconds: NDArray[np.float64], cut: Mapping[str, NDArray[np.float64]]) -> Told:
        """From seconds [kinds, precisions] of the whole model and of it with one axis at its smallest choice."""
        best = seconds.min(1).sum()
        regret = (seconds.sum(0) - best) / seconds.sum(0).min()
        saved = {axis: max(0.0, 1 - float(small.min(1).sum() / best)) for axis, small in cut.items()}
        return cls(dict(zip(CLASSES, map(float, regret), strict=True)), saved)

    @classmethod
    def of(cls, setting: Setting) -> Told:
        return cls.by(setting.by_kind(), {axis: setting.by_kind(**setting.smallest(axis)) for axis in AXES})

    @property
    def relief(self) -> Mapping[str, float]:
        total = sum(self.saved.values()) or 1.0
        return {axis: value / total for axis, value in self.saved.items()}

    @property
    def pull(self) -> Observed:
        shares = {f"share {name}": -min(1.0, regret) for name, regret in self.regret.items()}
        return shares | {f"kept {axis}": -part for axis, part in self.relief.items()}


@dataclass(frozen=True)
class Prediction:
    """`what` is larger (sign 1) or smaller (-1) in the choice of setting `x` than in that of `y`."""

    x: str
    y: str
    what: str
    sign: int

    def outcome(self, x: Observed, y: Observed) -> str:
        """One of `OUTCOMES`; `alike` is not borne out either."""
        difference = x[self.what] - y[self.what]
        if abs(difference) <= TIE:
            return "alike"
        return "borne out" if difference * self.sign > 0 else "against"

    def __str__(self) -> str:
        return f"{self.x} {'>' if self.sign > 0 else '<'} {self.y}: {self.what}"


def predictions(told: Mapping[str, Told], pairs: Sequence[tuple[str, str]]) -> list[Prediction]:
    out = []
    for x, y in pairs:
        for what, pull in told[x].pull.items():
            difference = pull - told[y].pull[what]
            if abs(difference) > CLOSE:
                out.append(Prediction(x, y, what, 1 if difference > 0 else -1))
    return out


def observed(picked: Picked, space: Space, order: Sequence[int]) -> Observed:
    """Share of the linears' weights at each precision, and of each axis kept."""
    weights = by_kind(picked, space, order)
    shares = weights.sum(0) / weights.sum()
    kept = {f"kept {a}": getattr(space, a)[getattr(picked, a)] / getattr(space, a)[0] for a in AXES}
    return {f"share {name}": float(share) for name, share in zip(CLASSES, shares, strict=True)} | kept


def by_kind(picked: Picked, space: Space, order: Sequence[int]) -> NDArray[np.float64]:
    """Weights of a pick by kind of linear and precision, [kinds, precisions]."""
    out = np.zeros((len(LINEAR_WIDTHS), len(space.precisions)))
    for name, (n, k, p) in picked.subnet(space, order).linears.items():
        out[KINDS.index(name.rpartition(".")[2]), space.precisions.index(p)] += n * k
    return out
