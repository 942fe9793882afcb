"""Prefix scorer: a torch model that keeps the keys and values of what one sequence shares with the next.

Candidate answers to one question, and questions after the same few-shot prompt, differ in their last tokens only: asked
in the order of their tokens, the rest is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from hwfit.evaluate.scorer import TorchScorer


class PrefixScorer(TorchScorer):
    """A Hugging Face causal LM, one sequence at a time; also generates (`prefill`, `decode`)."""

    def __init__(self, model: PreTrainedModel, max_context: int):
        super().__init__(model)
        self.max_context = max_context
        self._ids: list[int] = []
        self._cache = DynamicCache()
        names = signature(model.forward).parameters
        self._keyword = "cache" if "cache" in names else "past_key_values"  # newer and older transformers

    @torch.inference_mode()
    def all_logits(self, ids: np.ndarray, *, start: int = 0) -> np.ndarray:
        """int64 `ids[batch, seq]` -> f32 logits `[batch, seq - start, vocab]` at positions `start` and later."""
        return np.concatenate([self._row(row.tolist(), start)[None] for row in np.asarray(ids)])

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Logits `[vocab]` after the last of `ids`."""
        return self.all_logits(np.asarray(ids, np.int64)[None], start=len(ids) - 1)[0, 0]

    def decode(self, token: int) -> np.ndarray:
        """Append one token; logits `[vocab]` after it."""
        return self.prefill([*self._ids, token])

    def _row(self, ids: list[int], start: int) -> np.ndarray:
        keep = min(shared(self._ids, ids), start)
        if keep < len(self._ids):  # counted from the end: the only way that all versions of transformers have
            self._cache = DynamicCache() if keep == 0 else self._cropped(len(self._ids) - keep)
        rest = torch.tensor([ids[keep:]], device=self.model.device)
        out = self.model(rest, use_cache=True, logits_to_keep=len(ids) - start, **{self._keyword: self._cache})
        self._ids = ids
        return out.logits[0].float().cpu().numpy()

    def _cropped(self, tokens: int) -> DynamicCache:
        self._cache.crop(-tokens)
        return self._cache


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the beginning that two sequences have in common."""
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count
