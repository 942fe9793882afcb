"""Watch: tells a training loss that has left for good from one that is noisy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from statistics import median

WINDOW = 8
"""Steps whose median is the smoothed loss: a spike of three steps or fewer does not move it."""
LEAST = 4
"""Steps before anything is said."""
RISE = 1.5
"""Times the best smoothed loss at least. Of 65 distillations of 200 steps one diverged: it stayed at 3 to 5 times its
best. Seven others had passing spikes of 1.3 to 1.8 times, most of them in single steps, and mended themselves."""
SIGMAS = 5.0
"""Standard errors of the difference at least: with two short sequences a step the loss moves by a quarter."""
CLEAR = 3.0
"""Times the best smoothed loss that are enough however noisy the loss is: a run that has left is noisy itself."""
RECENT = 64
"""Steps that tell the noise."""
FLOOR = 0.02
"""Nats a token; a student nearer to its original than that is as good as the original, and its loss all noise."""


class Watch:
    """Losses in the order of their steps. All is done on logarithms: noise and rises are shares of a loss.

    A loss has risen when the median of the last `WINDOW` steps is above the lowest median so far, or above the very
    first loss, by more than a factor of `RISE` and by more than `SIGMAS` standard errors, or by a factor of `CLEAR`. A
    step's noise is the median size of the change from one step to the next, which no trend and no spike moves much.
    """

    def __init__(self, losses: Iterable[float] = ()):
        self._logs: list[float] = []
        self._best = (math.inf, 1)  # smoothed log loss, and of how many steps
        for loss in losses:
            self.risen(loss)

    def risen(self, loss: float) -> bool:
        """Whether the loss, with this step's, has risen clearly above the best seen."""
        self._logs.append(math.log(max(loss, FLOOR)))
        recent = self._logs[-WINDOW:]
        now, n = median(recent), len(recent)
        if n < LEAST:
            return False
        noise = self._noise()
        references = [(self._logs[0], 1), self._best]
        if now < self._best[0]:
            self._best = (now, n)
        return any(now - best > _margin(SIGMAS * noise * _error(n, of)) for best, of in references)

    def _noise(self) -> float:
        """Standard deviation of one step's log loss."""
        logs = self._logs[-RECENT:]
        few = 1 + LEAST / len(logs)  # so few changes may be small by chance
        return few * median(abs(b - a) for a, b in pairwise(logs)) / (0.6745 * math.sqrt(2))


def _margin(noise: float) -> float:
    """Of a log loss, with noise of that size in it."""
    return min(math.log(CLEAR), max(math.log(RISE), noise))


def _error(n: int, of: int) -> float:
    """Standard error of the difference of two medians of `n` and `of` steps, in a step's standard deviations."""
    return math.sqrt(math.pi / 2) * math.sqrt(1 / n + 1 / of)
