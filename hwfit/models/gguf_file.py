"""GGUF: the config and dequantised weights of a Llama GGUF under their Hugging Face names, in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from torch import Tensor

from hwfit.errors import HwfitError

_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_TOKENS = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(Hugging Face config, f32 weights with an untied `lm_head.weight`).

    llama.cpp stores the rows of q_proj and k_proj with rotary pairs side by side; they are put back half by half.
    Raises `HwfitError` for another architecture, and for a file that is damaged or lacks something.
    """
    try:
        return _read(path)
    except HwfitError:
        raise
    except Exception as error:  # the reader takes offsets and sizes from the file and raises whatever comes of it
        reason = (str(error).splitlines() or [""])[0]
        raise HwfitError(f"{path}: not a whole GGUF file ({type(error).__name__}: {reason}); fetch it again") from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    reader = GGUFReader(path)

    def field(name: str) -> Any:
        found = reader.get_field(name)
        return found.contents() if found else None

    if (architecture := field("general.architecture")) != "llama":
        raise HwfitError(f"{path}: GGUF architecture {architecture} is not supported; allowed: llama")
    heads, kv_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    hidden, theta = field("llama.embedding_length"), float(field("llama.rope.freq_base") or 10_000.0)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": field("llama.rope.dimension_count") or hidden // heads,
        "intermediate_size": field("llama.feed_forward_length"),
        "num_hidden_layers": field("llama.block_count"),
        "vocab_size": field("llama.vocab_size"),
        "max_position_embeddings": field("llama.context_length"),
        "rms_norm_eps": field("llama.attention.layer_norm_rms_epsilon"),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "dtype": "float32",
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        **{key: field(f"tokenizer.ggml.{name}") for key, name in _TOKENS.items()},
    }
    weights: dict[str, Tensor] = {}
    for item in reader.tensors:
        weight = torch.tensor(dequantize(item.data, item.tensor_type), dtype=torch.float32)
        pairs = {"attn_q": heads, "attn_k": kv_heads}.get(item.name.split(".")[-2])
        weights[_hub_name(item.name)] = weight if pairs is None else _halves(weight, pairs)
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"].clone())
    return config, weights


def _hub_name(name: str) -> str:
    if name in _OUTER:
        return _OUTER[name]
    _, block, kind, _ = name.split(".")
    return f"model.layers.{block}.{_BLOCK[kind]}.weight"


def _halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of each head from (x0, y0, x1, y1, …) to (x0, x1, …, y0, y1, …)."""
    n, k = weight.shape
    return weight.view(heads, n // heads // 2, 2, k).transpose(1, 2).reshape(n, k)
