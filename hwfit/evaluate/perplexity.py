"""Perplexity on held-out tokens, with a bootstrap interval over sequences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hwfit.errors import HwfitError
from hwfit.evaluate.scorer import Scorer, token_log_probs
from hwfit.progress import track

_RESAMPLES = 2000


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log likelihood, its 95 % bootstrap interval, and the number of predicted tokens."""

    value: float
    low: float
    high: float
    tokens: int


def perplexity(model: Scorer, tokens: Tensor, seed: int = 0, progress: bool = True) -> Perplexity:
    """Perplexity of `tokens[n, seq]`; each row stands alone and its first token is context only.

    The interval resamples rows, so it speaks of other texts like these; two models scored on the same rows differ by
    less than their intervals suggest. Raises `HwfitError` without at least one row of two tokens.
    """
    if tokens.ndim != 2 or tokens.shape[0] < 1 or tokens.shape[1] < 2:
        raise HwfitError(f"perplexity: tokens of shape {tuple(tokens.shape)}; allowed: [n, seq] with n ≥ 1 and seq ≥ 2")
    count = tokens.shape[1] - 1
    losses = np.empty(len(tokens))  # nats a token, one row each
    with track(len(tokens), "perplexity", progress) as advance:
        for i, row in enumerate(tokens.tolist()):
            losses[i] = -token_log_probs(model, row, count)[0].mean()
            advance()
    picks = np.random.default_rng(seed).integers(0, len(losses), (_RESAMPLES, len(losses)))
    low, high = np.exp(np.quantile(losses[picks].mean(1), (0.025, 0.975)))
    return Perplexity(float(np.exp(losses.mean())), float(low), float(high), len(losses) * count)
