"""Score: how many documents of a benchmark a model got right."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from hwfit.evaluate.tasks import Metric


@dataclass(frozen=True)
class Score:
    """Accuracy on `n` documents by `metric`, its standard error, and each document's outcome in a fixed order."""

    metric: Metric
    value: float
    stderr: float
    n: int
    per_document: tuple[bool, ...]


def mean_accuracy(scores: Iterable[Score]) -> tuple[float, float]:
    """(unweighted mean over tasks, its standard error)."""
    scores = list(scores)
    error = math.sqrt(sum(score.stderr**2 for score in scores)) / len(scores)
    return sum(score.value for score in scores) / len(scores), error
