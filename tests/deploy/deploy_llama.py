"""A tiny random Llama, its subnets, and reference forwards that share no code with hwfit.deploy."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from hwfit.precision import Precision
from hwfit.subnet import LINEARS, ModelShape, Subnet

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
"""Llama 3's scaling with a context so short that most frequencies of a head of 32 are scaled."""
RUNS = ("w32", "w8a8", "w8a8g32", "w4a8g32", "w4a8g64", "w2a8g32")


def tiny_llama(seed: int = 0, **overrides: Any) -> LlamaForCausalLM:
    """4 blocks, hidden 128, 8 heads on 4 KV heads of 32; weights scaled so that signals neither vanish nor blow up."""
    sizes = {
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "vocab_size": 512,
        "rms_norm_eps": 1e-3,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**{**sizes, **overrides})).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * p.shape[-1] ** -0.5 if p.ndim == 2 else 1 + 0.3 * torch.randn_like(p))
    return model


def parts(model: LlamaForCausalLM) -> tuple[dict[str, Tensor], ModelShape, dict[str, Any]]:
    config = model.config.to_dict()
    return {k: v.detach() for k, v in model.state_dict().items()}, ModelShape.from_config(config), config


def narrow(shape: ModelShape, **sizes: Any) -> Subnet:
    """Without block 2 and three quarters as wide, with heads half as large."""
    kept = {"hidden": 96, "heads": 6, "kv_heads": 3, "head_size": 16, "blocks": (0, 1, 3), "mlp": (128,) * 3, **sizes}
    whole = Subnet.whole(shape)
    return dataclasses.replace(whole, **kept, precision=whole.precision[: len(kept["blocks"])])


def random_precisions(subnet: Subnet, seed: int, choices: tuple[str, ...] = RUNS) -> Subnet:
    """`subnet` with a random precision for each linear whose input width its group divides."""
    rng = random.Random(seed)

    def pick(k: int) -> Precision:
        return Precision.parse(rng.choice([c for c in choices if k % (Precision.parse(c).group or 1) == 0]))

    rows = tuple(tuple(pick(k) for _, k, _ in subnet.block_linears(i).values()) for i in range(len(subnet.blocks)))
    assert all(len(row) == len(LINEARS) for row in rows)
    return dataclasses.replace(subnet, precision=rows, lm_head=pick(subnet.hidden), embed=pick(subnet.hidden))


def mask_weights(weights: dict[str, Tensor], shape: ModelShape, subnet: Subnet) -> dict[str, Tensor]:
    """The original's weights with everything `subnet` drops set to zero, written channel by channel."""
    w = {name: t.clone() for name, t in weights.items()}
    w["model.embed_tokens.weight"][:, subnet.hidden :] = 0
    queries = subnet.heads // subnet.kv_heads
    stride = shape.head_size // subnet.head_size
    for block in range(shape.blocks):
        prefix = f"model.layers.{block}."
        writers = [w[prefix + "self_attn.o_proj.weight"], w[prefix + "mlp.down_proj.weight"]]
        if block not in subnet.blocks:
            for t in writers:
                t.zero_()
            continue
        for t in writers:
            t[subnet.hidden :] = 0
        writers[1][:, subnet.mlp[subnet.blocks.index(block)] :] = 0
        for head in range(shape.heads):
            kv, member = divmod(head, shape.queries_per_kv)
            for channel in range(shape.head_size):
                pair = channel % (shape.head_size // 2)
                if kv >= subnet.kv_heads or member >= queries or pair % stride:
                    column = head * shape.head_size + channel
                    writers[0][:, column] = 0
                    w[prefix + "self_attn.q_proj.weight"][column] = 0
    return w


def llama_with(weights: dict[str, Tensor], config: dict[str, Any]) -> LlamaForCausalLM:
    """A Llama of any sizes: transformers checks the hidden size at construction only."""
    known = {k: v for k, v in config.items() if k not in ("architectures", "model_type", "sliding_window")}
    llama = LlamaConfig(**{**known, "hidden_size": config["num_attention_heads"]})
    llama.hidden_size = config["hidden_size"]
    model = LlamaForCausalLM(llama).eval()
    model.load_state_dict(weights)
    return model


def hook_inputs(model: LlamaForCausalLM, change: Callable[[str, Tensor], Tensor]) -> None:
    """Replace every linear's input x by `change(module name, x)`."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, args, name=name: (change(name, args[0]),))
