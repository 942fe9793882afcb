"""Divergence: token by token, how far a compressed model's predictions are from its original's on the same text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np
import torch

from hwfit.evaluate.scorer import Scorer

Array = np.ndarray
Measured = Annotated[float, "or null"]
"""A figure that a broken model may have no finite value of: NaN or infinite here, null in files."""
MOST = 1e30
AT_ONCE = 256
"""Tokens whose probabilities are held at a time: those of a long sequence would take gigabytes."""


@dataclass(frozen=True)
class Tokens:
    """One entry a predicted token, each `[tokens]`: KL(original ‖ compressed) and both models' losses in nats, and
    whether both hold the same token for the most likely one."""

    kl: Array
    before: Array
    after: Array
    same: Array

    def __getitem__(self, part: slice) -> Tokens:
        return Tokens(self.kl[part], self.before[part], self.after[part], self.same[part])

    def to_lists(self) -> dict[str, list[float]]:
        return {name: np.asarray(values, float).tolist() for name, values in asdict(self).items()}

    @classmethod
    def from_lists(cls, raw: dict[str, list[float]]) -> Tokens:
        """Inverse of `to_lists`. Raises `KeyError` or `ValueError` for anything else."""
        return cls(*(np.asarray(raw[name], float) for name in ("kl", "before", "after", "same")))

    @classmethod
    def join(cls, parts: Sequence[Tokens]) -> Tokens:
        return cls(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("kl", "before", "after", "same")))


@dataclass(frozen=True)
class Divergence:
    """`kl` is the mean, `kl_p99` and `kl_max` are over tokens; `before` and `after` perplexities of the two models."""

    tokens: int
    kl: Measured
    kl_p99: Measured
    kl_max: Measured
    same: float
    before: Measured
    after: Measured

    @property
    def drawable(self) -> bool:
        """Whether every figure is a number that fits on an axis."""
        return all(abs(value) < MOST for value in asdict(self).values())

    @property
    def increase(self) -> float:
        """By what part perplexity rose."""
        return self.after / self.before - 1

    @classmethod
    def of(cls, t: Tokens) -> Divergence:
        return cls(
            tokens=len(t.kl),
            kl=float(t.kl.mean()),
            kl_p99=_tail(t.kl),
            kl_max=float(t.kl.max()),
            same=float(t.same.mean()),
            before=_perplexity(t.before),
            after=_perplexity(t.after),
        )


def _tail(kl: Array) -> float:
    with np.errstate(invalid="ignore"):  # between infinities
        return float(np.quantile(kl, 0.99))


def _perplexity(losses: Array) -> float:
    with np.errstate(over="ignore"):  # infinity, of a model that rules out what came
        return float(np.exp(losses.mean()))


def diverge(original: Scorer, compressed: Scorer, ids: Sequence[int], start: int = 0) -> Tokens:
    """Both models on one sequence, at `ids[start + 1]` and later; `[len(ids) - 1 - start]` tokens."""
    row = np.asarray(ids[:-1], np.int64)[None]
    a, b = (model.all_logits(row, start=start)[0] for model in (original, compressed))  # [tokens, vocab]
    targets = np.asarray(ids[start + 1 :])
    parts = [slice(i, i + AT_ONCE) for i in range(0, len(targets), AT_ONCE)]
    return Tokens.join([_tokens(a[part], b[part], targets[part]) for part in parts])


def _tokens(a: Array, b: Array, targets: Array) -> Tokens:
    """Logits `[tokens, vocab]` of the two models and the tokens that came."""
    p, q = (torch.log_softmax(torch.from_numpy(np.ascontiguousarray(x)).float(), -1) for x in (a, b))
    came = torch.from_numpy(targets)[:, None]
    kl = (p.exp() * (p - q)).sum(1).clamp_min(0)  # rounding alone can take it below
    return Tokens(
        kl.double().numpy(),
        -p.gather(1, came)[:, 0].double().numpy(),
        -q.gather(1, came)[:, 0].double().numpy(),
        (p.argmax(1) == q.argmax(1)).double().numpy(),
    )
