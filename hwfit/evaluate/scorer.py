"""Scorer: what an evaluation asks of a model — the logits of token ids — and a PyTorch model as one."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from transformers import PreTrainedModel


class Scorer(Protocol):
    """Anything that returns logits, such as `hwfit.deploy.runtime.OnnxModel`."""

    def all_logits(self, ids: np.ndarray, *, start: int = 0) -> np.ndarray:
        """int64 `ids[batch, seq]` -> f32 logits `[batch, seq - start, vocab]` at positions `start` and later."""
        ...


class TorchScorer:
    """A Hugging Face causal LM as a `Scorer`; the LM head runs only where logits are asked for."""

    def __init__(self, model: PreTrainedModel):
        self.model = model.eval()

    @torch.inference_mode()
    def all_logits(self, ids: np.ndarray, *, start: int = 0) -> np.ndarray:
        batch = torch.from_numpy(ids).to(self.model.device)
        logits = self.model(batch, use_cache=False, logits_to_keep=ids.shape[1] - start).logits
        return logits.float().cpu().numpy()


def token_log_probs(model: Scorer, ids: list[int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """(log probability, is it the argmax) of each of the last `count` of `ids` given all before it: two `[count]`.

    `count` is at most `len(ids) - 1`, for the first token has no prediction.
    """
    row = np.asarray(ids[:-1], np.int64)[None]  # [1, seq]
    logits = model.all_logits(row, start=row.shape[1] - count)[0]  # [count, vocab]
    targets = np.asarray(ids[-count:])[:, None]
    best = logits.argmax(1)[:, None]
    largest = np.take_along_axis(logits, best, 1)
    log_sum = np.log(np.exp(logits - largest).sum(1, dtype=np.float64))
    picked = np.take_along_axis(logits, targets, 1) - largest
    return picked[:, 0] - log_sum, (best == targets)[:, 0]
