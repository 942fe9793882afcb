"""The calibration curve: how good decisions for one device made with another's table get with measurements there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from hwfit.errors import raise_all
from hwfit.latency_models.calibrate import calibrated, shots
from hwfit.latency_models.transfer import Agreement, Pair, Source, agreement, mean, verdict
from hwfit.latency_models.transfer_subnets import front_regret
from hwfit.progress import track
from hwfit.subnet import ModelShape

DRAWS = 3
"""Choices of the measurements: what the curve's intervals come from."""
PREFILL = 512
"""Rows of a prefill at most, for whole subnets."""


@dataclass(frozen=True)
class Point:
    """After `shots` measurements on B: decisions by regime of rows, of whole subnets, and how sure predictions are."""

    shots: int
    draws: tuple[tuple[Agreement, ...], ...]
    subnets: dict[int, float]
    """Regret of the front, by rows."""
    half_width: float
    """Of 9 in 10 predictions, log seconds."""
    coverage: float
    """Share of B's cells that were within it."""

    @property
    def regimes(self) -> list[Agreement]:
        return mean([list(draw) for draw in self.draws])


@dataclass(frozen=True)
class Transfer:
    """The calibration curve from `a` to `b`, helped by the tables of `others`, and what it says in words."""

    a: str
    b: str
    others: tuple[str, ...]
    points: tuple[Point, ...]
    verdict: str


def curve(a: Source, b: Source, others: tuple[Source, ...], counts: Sequence[int], shape: ModelShape) -> Transfer:
    """The points of `counts` measurements, each from `DRAWS` choices of them."""
    pair = Pair.of(a, b, others)
    known = int(np.isfinite(pair.b).sum())
    most = known // 2  # the rest judges
    raise_all([f"--shots {n}: {b.device} shares {known} cells; allowed: 0 to {most}" for n in counts if n > most])
    used = tuple(o.device for o in pair.others)
    points = []
    with track(len(counts) * DRAWS, "transfer") as advance:
        for count in counts:
            points.append(_point(pair, count, shape, partial(advance, note=f"{count} measurements")))
    words = verdict({point.shots: point.regimes for point in points}, b.device)
    return Transfer(a.device, b.device, used, tuple(points), words)


def _point(pair: Pair, count: int, shape: ModelShape, step: Callable[[], None]) -> Point:
    draws, widths, covered, subnets = [], [], [], []
    rows = sorted({int(m) for m in pair.sizes[:, 0]})
    at = sorted({rows[0], max((m for m in rows if m <= PREFILL), default=rows[0])})
    for seed in range(DRAWS):
        if count or not draws:  # without measurements there is nothing to draw
            guess = calibrated(pair, shots(pair, count, seed))
            draws.append(tuple(agreement(pair, guess.seconds)))
            widths.append(guess.half_width)
            errors = np.abs(np.log(guess.seconds / pair.b))
            covered.append(np.mean(errors[np.isfinite(errors)] <= guess.half_width))
            subnets.append({m: front_regret(pair, guess.seconds, shape, m) for m in at})
        step()
    fronts = {m: float(np.mean([s[m] for s in subnets])) for m in at}
    return Point(count, tuple(draws), fronts, float(np.mean(widths)), float(np.mean(covered)))
