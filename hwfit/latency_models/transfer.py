"""Transfer: does what one device's table says of speed-ups hold on another?

Latency rank flatters: shapes differ by orders of magnitude, precisions of one shape by tens of per cent. What is
decided with a table is which precision a layer gets, so that is judged: by the rank and the sign of speed-ups over the
baseline, and by the regret, what the other device loses with the choice made here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from hwfit.errors import HwfitError
from hwfit.latency_models.cells import REGIMES, Array, regime
from hwfit.lut_store.facts import Facts
from hwfit.precision import Precision

REGRET, SIGN = 0.03, 0.90
"""A transfer holds when decisions cost at most 3 % in every regime and 9 in 10 speed-ups keep their sign: about what
one GPU does to itself under two versions of a library (0.5-1.8 %, 94-96 %), with room for a model's own error."""
FEWEST = 50
"""Cells two devices must share for a verdict."""


@dataclass(frozen=True)
class Source:
    """One device's frame (`Table.read`) and facts."""

    device: str
    frame: pd.DataFrame
    facts: Facts


@dataclass(frozen=True)
class Relative:
    """A further device's seconds `[cells, precisions]` of the same cells."""

    device: str
    seconds: Array
    facts: Facts


@dataclass(frozen=True)
class Pair:
    """Two devices' seconds `a`, `b` `[cells, precisions]` of the same linears, NaN where either has none.

    `sizes [cells, 3]` are m, n, k. The first precision is the baseline, which every cell has. `others` have all
    of these cells too: what is known of B's kind of device from its relatives.
    """

    sizes: Array
    precisions: tuple[Precision, ...]
    a: Array
    b: Array
    facts_a: Facts
    facts_b: Facts
    others: tuple[Relative, ...] = ()

    @classmethod
    def of(cls, a: Source, b: Source, others: tuple[Source, ...] = ()) -> Pair:
        """The baseline is the widest shared precision. Raises `HwfitError` if A and B share too few cells."""
        frames = [_wide(source.frame) for source in (a, b)]
        common = [str(p) for p in frames[0].columns.intersection(frames[1].columns)]
        if len(common) < 2:
            have = {s.device: ", ".join(map(str, f.columns)) for s, f in zip((a, b), frames, strict=True)}
            raise HwfitError(
                f"{a.device} and {b.device} share the precisions {common}; two are needed to compare speed-ups. "
                f"Measured: {have}"
            )
        names = sorted(common, key=lambda name: (-Precision.parse(name).weight_bits, name))
        index = frames[0].index.intersection(frames[1].index)
        left, right = (frame.reindex(index=index, columns=names).to_numpy() for frame in frames)
        both = np.isfinite(left) & np.isfinite(right)
        keep = both[:, 0] & (both.sum(1) > 1)
        if keep.sum() < FEWEST:
            raise HwfitError(
                f"{a.device} and {b.device} share {int(keep.sum())} shapes that both ran at {names[0]} and another "
                f"precision; at least {FEWEST} are needed. Measure the same plan on both: `hwfit profile --config …`"
            )
        wide = [_wide(o.frame).reindex(index=index, columns=names).to_numpy()[keep] for o in others]
        also = [Relative(o.device, seconds, o.facts) for o, seconds in zip(others, wide, strict=True)]
        return cls(
            sizes=np.array(index.tolist(), dtype=np.float64)[keep],
            precisions=tuple(Precision.parse(name) for name in names),
            a=np.where(both, left, np.nan)[keep],
            b=np.where(both, right, np.nan)[keep],
            facts_a=a.facts,
            facts_b=b.facts,
            others=tuple(o for o in also if np.isfinite(o.seconds[both[keep]]).all()),
        )


def _wide(frame: pd.DataFrame) -> pd.DataFrame:
    """Seconds by (m, n, k) and precision; the lower of two where a cell was measured twice."""
    linears: Any = frame[(frame["kind"] == "linear") & (frame["p10"] > 0)]
    return linears.pivot_table("p10", ["m", "n", "k"], "precision", "min")


@dataclass(frozen=True)
class Agreement:
    """How far decisions made with a prediction of B hold on B, in one regime of rows."""

    regime: str
    cells: int
    latency_rank: float
    speedup_rank: float
    sign: float
    same_fastest: float
    regret: float
    regret_p90: float


def agreement(pair: Pair, predicted: Array) -> list[Agreement]:
    """Decisions made with `predicted [cells, precisions]`, judged by what B takes, for each regime there is."""
    at = regime(pair.sizes[:, 0])
    return [_judge(name, predicted[at == i], pair.b[at == i]) for i, name in enumerate(REGIMES) if (at == i).any()]


def _judge(name: str, guess: Array, truth: Array) -> Agreement:
    there = np.isfinite(truth)
    gains = [np.log(t[:, :1] / t[:, 1:])[there[:, 1:]] for t in (guess, truth)]
    choice = np.where(there, guess, np.inf).argmin(1)
    best = np.where(there, truth, np.inf).argmin(1)
    rows = np.arange(len(truth))
    regret = truth[rows, choice] / truth[rows, best] - 1
    return Agreement(
        regime=name,
        cells=len(truth),
        latency_rank=_rank(guess[there], truth[there]),
        speedup_rank=_rank(gains[0], gains[1]),
        sign=float(np.mean(np.sign(gains[0]) == np.sign(gains[1]))),
        same_fastest=float(np.mean(choice == best)),
        regret=float(regret.mean()),
        regret_p90=float(np.quantile(regret, 0.9)),
    )


def _rank(a: Array, b: Array) -> float:
    return float(spearmanr(a, b).statistic)  # pyright: ignore[reportAttributeAccessIssue]


def mean(draws: list[list[Agreement]]) -> list[Agreement]:
    """Regime by regime over several draws of the shots."""
    fields = [f for f in Agreement.__dataclass_fields__ if f not in ("regime", "cells")]
    return [
        Agreement(same[0].regime, same[0].cells, **{f: float(np.mean([getattr(a, f) for a in same])) for f in fields})
        for same in zip(*draws, strict=True)
    ]


def sign(regimes: list[Agreement]) -> float:
    """Share of all speed-ups whose sign holds."""
    return sum(a.sign * a.cells for a in regimes) / sum(a.cells for a in regimes)


def holds(regimes: list[Agreement]) -> bool:
    """Whether decisions are as good as `REGRET` and `SIGN` ask for."""
    return all(a.regret <= REGRET for a in regimes) and sign(regimes) >= SIGN


def verdict(curve: Mapping[int, list[Agreement]], target: str) -> str:
    """In words, from the agreement after each number of measurements on B."""
    enough = [count for count, regimes in sorted(curve.items()) if holds(regimes)]
    if not enough:
        return f"does not hold; profile {target}"
    return "holds" if enough[0] == 0 else f"holds after {enough[0]} measurements on {target}"
