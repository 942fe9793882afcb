"""Rungs: which subnet of a ladder holds its budget on a device, moved by what it missed and no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hwfit.subnet import Subnet

NEAR = 0.01
"""Share of a budget that is not worth another rung."""
Times = Mapping[str, Mapping[str, float]]
"""`phase -> {"p10": seconds, ...}`."""
Measure = Callable[[Mapping[str, Subnet]], Mapping[str, Any]]
"""`name -> subnet` -> `name -> Times`."""


@dataclass(frozen=True)
class Rung:
    """One subnet of a ladder; `predicted` seconds of the phase its budget is on."""

    share: float
    subnet: Subnet
    predicted: float
    loss: float


def settled(
    ladders: Mapping[str, Sequence[Rung]], phase: str, limit: float, measure: Measure, rounds: int, tolerance: float
) -> dict[str, tuple[Rung, Times]]:
    """By ladder (largest share first), the largest rung that was measured to hold `limit` up to `tolerance`, and its
    last times; where none did, the last one tried.

    Each begins at the whole budget. All rungs in hand are timed in turns, in every one of `rounds` at most.
    """
    at = {name: _first(rungs) for name, rungs in ladders.items()}
    seen: dict[str, dict[int, Times]] = {name: {} for name in ladders}
    for _ in range(rounds):
        for name, times in measure({name: ladders[name][i].subnet for name, i in at.items()}).items():
            seen[name][at[name]] = times
        known = {name: {i: t[phase]["p10"] for i, t in tried.items()} for name, tried in seen.items()}
        moved = {name: _next(ladders[name], at[name], known[name], limit, tolerance) for name in at}
        if moved == at:
            break
        at = moved
    out = {}
    for name, tried in seen.items():
        holding = [i for i, times in tried.items() if times[phase]["p10"] <= limit * (1 + tolerance)]
        chosen = min(holding) if holding else list(tried)[-1]
        out[name] = ladders[name][chosen], tried[chosen]
    return out


def _first(rungs: Sequence[Rung]) -> int:
    return next((i for i, rung in enumerate(rungs) if rung.share <= 1), len(rungs) - 1)


def _next(rungs: Sequence[Rung], at: int, known: Mapping[int, float], limit: float, tolerance: float) -> int:
    """The largest rung that keeps `limit` at the disagreement of this one with its prediction, the smallest if none
    would, but none that did not hold before; the same one if it holds and little is to be gained."""
    slower = known[at] / rungs[at].predicted
    over = {i for i, seconds in known.items() if seconds > limit * (1 + tolerance)}
    fitting = [i for i, rung in enumerate(rungs) if i not in over and rung.predicted * slower <= limit]
    best = fitting[0] if fitting else len(rungs) - 1
    if at not in over and (best >= at or rungs[best].predicted <= rungs[at].predicted * (1 + NEAR)):
        return at
    return best
