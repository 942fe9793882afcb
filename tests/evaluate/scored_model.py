"""A tiny random Llama and a scorer of known behaviour, for the tests here."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from byte_tokens import TOKENS
from transformers import LlamaConfig, LlamaForCausalLM

VOCAB = len(TOKENS)


def random_llama(**sizes: Any) -> LlamaForCausalLM:
    known = {"hidden_size": 32, "intermediate_size": 48, "initializer_range": 0.3, "max_position_embeddings": 2048}
    rest = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": VOCAB}
    torch.manual_seed(0)
    config = LlamaConfig(**{**known, **sizes}, **rest, bos_token_id=1, eos_token_id=2)
    return LlamaForCausalLM(config).eval()


class Uniform:
    """Every token equally likely."""

    def all_logits(self, ids: np.ndarray, *, start: int = 0) -> np.ndarray:
        return np.full((ids.shape[0], ids.shape[1] - start, VOCAB), 3.0, np.float32)
