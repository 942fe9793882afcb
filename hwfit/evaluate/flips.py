"""Flips: documents of a benchmark whose answer changed, in either direction, where their average may hide it."""

from __future__ import annotations

from dataclasses import dataclass

from hwfit.evaluate.task_result import TaskResult


@dataclass(frozen=True)
class Flips:
    """Of `n` documents: `lost` were right and are wrong now, `won` the reverse, `swapped` have another wrong answer.

    `before` and `after` are accuracies; `at_floor` says that the original already does no better than guessing there.
    """

    task: str
    metric: str
    shots: int
    n: int
    lost: int
    won: int
    swapped: int
    before: float
    after: float
    at_floor: bool

    @property
    def changed(self) -> float:
        """Share of documents with another answer."""
        return (self.lost + self.won + self.swapped) / self.n


def flips(original: TaskResult, compressed: TaskResult) -> Flips:
    """Compare two models' answers to the same documents."""
    if original.documents != compressed.documents:
        raise ValueError(f"{original.task}: the two models were asked different documents")
    changed = [
        (a, b)
        for a, b, x, y in zip(original.right, compressed.right, original.answers, compressed.answers, strict=True)
        if x != y
    ]
    return Flips(
        task=original.task,
        metric=original.metric,
        shots=original.shots,
        n=original.n,
        lost=changed.count((True, False)),
        won=changed.count((False, True)),
        swapped=changed.count((False, False)),
        before=original.value,
        after=compressed.value,
        at_floor=original.at_floor,
    )
