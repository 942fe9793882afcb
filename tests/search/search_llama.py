"""A tiny random Llama whose every axis has a choice: hidden 64, 4 heads in 2 groups of size 16, MLP 96, 3 blocks."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from hwfit.precision import Precision
from hwfit.space import Space
from hwfit.subnet import ModelShape

SHAPE = ModelShape(hidden=64, heads=4, kv_heads=2, head_size=16, mlp=96, blocks=3, vocab=40)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "vocab_size": 40,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}


def random_weights(seed: int = 0) -> dict[str, Tensor]:
    """Hugging Face names, weights with std 1/sqrt(inputs), gains around 1."""
    g = torch.Generator().manual_seed(seed)
    q, kv = SHAPE.heads * SHAPE.head_size, SHAPE.kv_heads * SHAPE.head_size
    sizes = {"self_attn.q_proj": (q, 64), "self_attn.k_proj": (kv, 64), "self_attn.v_proj": (kv, 64)}
    sizes |= {
        "self_attn.o_proj": (64, q),
        "mlp.gate_proj": (96, 64),
        "mlp.up_proj": (96, 64),
        "mlp.down_proj": (64, 96),
    }
    out = {
        "model.embed_tokens.weight": torch.randn(40, 64, generator=g),
        "lm_head.weight": torch.randn(40, 64, generator=g) / 8,
    }
    for b in range(SHAPE.blocks):
        for name, (n, k) in sizes.items():
            out[f"model.layers.{b}.{name}.weight"] = torch.randn(n, k, generator=g) / k**0.5
        for norm in ("input_layernorm", "post_attention_layernorm"):
            out[f"model.layers.{b}.{norm}.weight"] = 1 + 0.1 * torch.randn(64, generator=g)
    out["model.norm.weight"] = 1 + 0.1 * torch.randn(64, generator=g)
    return out


def tiny_space(*precisions: str) -> Space:
    return Space(
        shape=SHAPE,
        hidden=(64, 32),
        heads=(4, 2),
        head_size=(16, 8),
        mlp=(96, 64, 32),
        depth=(3, 2, 1),
        precisions=tuple(map(Precision.parse, precisions or ("w32", "w8a8g32", "w4a8g32"))),
        embed=Precision.parse("w32"),
    )


def write_model(folder: Path) -> Path:
    """`random_weights` as a model directory (without tokenizer)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    safetensors.torch.save_file(random_weights(), folder / "model.safetensors")
    return folder
