"""Task result: what a model answered to each document of a benchmark, and whether that beats guessing."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from scipy.stats import binom

from hwfit.evaluate.tasks import Metric

SURE = 0.05


@dataclass(frozen=True)
class TaskResult:
    """Answers by `metric` to the documents asked, in a fixed order.

    `documents` are `task/index` of the stock split; `answers` and `gold` number a document's choices; `floor` is what
    guessing gets: 1 / choices on average, or, where the choices are the same words in every document, always giving the
    most frequent answer if that is more. `others` counts right answers by lm-eval's further metrics; `cut` counts
    documents whose prompt was longer than the model's context and lost its beginning.
    """

    task: str
    metric: Metric
    shots: int
    documents: tuple[str, ...]
    gold: tuple[int, ...]
    answers: tuple[int, ...]
    floor: float
    others: dict[str, int]
    cut: int

    @cached_property
    def right(self) -> tuple[bool, ...]:
        return tuple(a == g for a, g in zip(self.answers, self.gold, strict=True))

    @property
    def n(self) -> int:
        return len(self.gold)

    @property
    def value(self) -> float:
        return sum(self.right) / self.n

    @property
    def stderr(self) -> float:
        """Standard error of `value`, as lm-eval's: documents stand for others like them."""
        return math.sqrt(self.value * (1 - self.value) / max(self.n - 1, 1))

    @property
    def chance(self) -> float:
        """Probability that guessing gets at least as many right."""
        return float(binom.sf(sum(self.right) - 1, self.n, self.floor))

    @property
    def at_floor(self) -> bool:
        """Not distinguishable from guessing: nothing that compression does to the model would show here."""
        return self.chance > SURE

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> TaskResult:
        """Inverse of `to_dict`, also after JSON. Raises `TypeError` or `KeyError` for anything else."""
        many = {name: tuple(raw[name]) for name in ("documents", "gold", "answers")}
        return cls(**{**raw, **many})

    def summary(self) -> dict[str, Any]:
        """The quoted figures, without the documents."""
        return {
            "metric": self.metric,
            "shots": self.shots,
            "value": self.value,
            "stderr": self.stderr,
            "n": self.n,
            "floor": self.floor,
            "chance": self.chance,
            "at_floor": self.at_floor,
            **{name: count / self.n for name, count in self.others.items()},
            "prompts_cut": self.cut,
        }
