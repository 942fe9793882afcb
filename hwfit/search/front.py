"""Front: which of several points are dominated, as far as their intervals can tell. Lower is better on every axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

SIGMAS = 1.96


class Interval(NamedTuple):
    """A value and where it may lie."""

    value: float
    low: float
    high: float

    @classmethod
    def around(cls, value: float, spread: float = 0.0) -> Interval:
        """`spread` is a fraction of the value."""
        return cls(value, value * (1 - spread), value * (1 + spread))


Point = Mapping[str, Interval]
"""`axis -> interval`."""


def beats(one: Point, other: Point) -> bool:
    """No worse on any axis and better beyond both intervals on one."""
    return all(one[axis].value <= other[axis].value for axis in other) and any(
        one[axis].high < other[axis].low for axis in other
    )


def dominated(points: Mapping[str, Point]) -> dict[str, str]:
    """`name -> one that beats it` for every point that is beaten, by one that nothing beats where there is such."""
    better = {name: [other for other, q in points.items() if beats(q, p)] for name, p in points.items()}
    return {name: min(others, key=lambda other: len(better[other])) for name, others in better.items() if others}


def paired(samples: Mapping[str, Sequence[float]]) -> dict[str, Interval]:
    """The mean of each series with the interval that is its own, all having been measured on the same things.

    What all series share from one sample to the next is left out of the interval.
    """
    shared = [fmean(values) for values in zip(*samples.values(), strict=True)]
    out = {}
    for name, values in samples.items():
        mean = fmean(values)
        own = [value - level for value, level in zip(values, shared, strict=True)]
        reach = SIGMAS * stdev(own) / len(own) ** 0.5 if len(own) > 1 else 0.0
        out[name] = Interval(mean, mean - reach, mean + reach)
    return out
