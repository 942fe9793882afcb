"""Rungs: which subnet of each ladder holds its budget on a device, moved by what is more than noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hwfit.search.remeasure import Disagreement
from hwfit.subnet import Subnet

NOISE = 0.01
"""Of a shared machine, between rounds; more moves all ladders alike."""
Measure = Callable[[Mapping[str, Subnet]], Mapping[str, Any]]
"""`name -> subnet` -> `name -> phase -> {"p10": seconds, ...}`."""


@dataclass(frozen=True)
class Rung:
    """One subnet of a ladder; `predicted` seconds of the phase its budget is on."""

    share: float
    subnet: Subnet
    predicted: float
    loss: float


def settled(
    ladders: Mapping[str, Sequence[Rung]], phase: str, limit: float, measure: Measure, rounds: int, noise: float = NOISE
) -> dict[str, Rung]:
    """By ladder (largest share first), the largest rung that keeps `limit`, or the smallest, after all that was timed.

    Each begins at the whole budget. All rungs in hand are timed in turns, in every one of `rounds` at most; what that
    says of one ladder counts as far as the others do not share it (see `Disagreement`).
    """
    at = {name: _first(rungs) for name, rungs in ladders.items()}
    seen = Disagreement(noise)
    for _ in range(rounds):
        times = measure({name: ladders[name][i].subnet for name, i in at.items()})
        for name, i in at.items():
            seen.add(name, {phase: ladders[name][i].predicted}, {phase: times[name][phase]["p10"]})
        moved = {name: _fitting(ladders[name], limit / seen.slower(name)[phase]) for name in at}
        if moved == at:
            break
        at = moved
    return {name: ladders[name][i] for name, i in at.items()}


def _first(rungs: Sequence[Rung]) -> int:
    return next((i for i, rung in enumerate(rungs) if rung.share <= 1), len(rungs) - 1)


def _fitting(rungs: Sequence[Rung], limit: float) -> int:
    return next((i for i, rung in enumerate(rungs) if rung.predicted <= limit), len(rungs) - 1)
