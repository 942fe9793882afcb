"""Slice: the weights of a subnet, cut out of the original's so that what is kept computes what it computed before.

    hidden, mlp    the first channels
    KV heads       the first ones, each with its own query heads
    head size d'   of d: the rotary pairs (i, i + d/2) with i a multiple of d/d', whose frequencies are exactly those
                   of a plain Llama with head size d'

Two constants of the architecture change with its widths, and both fold into weights. Attention divides by sqrt(d')
where it divided by sqrt(d): q_proj is multiplied by sqrt(d'/d). RMSNorm takes its mean over D' channels where it
took it over D: gains are multiplied by sqrt(D/D') and epsilon by D/D'. The sliced model then equals the original with
the dropped weights set to zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hwfit.errors import HwfitError, raise_all
from hwfit.space import LINEAR_WIDTHS, Width
from hwfit.subnet import LINEARS, ModelShape, Subnet

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
EMBED, FINAL_NORM, LM_HEAD = "model.embed_tokens", "model.norm", "lm_head"
NORMS = ("input_layernorm", "post_attention_layernorm")


def module_name(block: int, linear: str) -> str:
    """Hugging Face module name of a block's linear: `model.layers.3.mlp.up_proj`."""
    return f"model.layers.{block}.{'self_attn' if linear in ATTENTION else 'mlp'}.{linear}"


def original_names(subnet: Subnet) -> dict[str, str]:
    """Module names of the sliced model's linears -> those of the original they come from."""
    pairs = {module_name(i, x): module_name(b, x) for i, b in enumerate(subnet.blocks) for x in LINEARS}
    return {**pairs, LM_HEAD: LM_HEAD}


def slice_weights(weights: Mapping[str, Tensor], shape: ModelShape, subnet: Subnet) -> dict[str, Tensor]:
    """Weights of `subnet` under Hugging Face Llama names, kept blocks renumbered from 0; `lm_head` always present.

    Raises `HwfitError` if the subnet is no part of `shape` or `weights` lack a tensor.
    """
    check_slice(shape, subnet)
    gain = (shape.hidden / subnet.hidden) ** 0.5
    out: dict[str, Tensor] = {}
    missing: list[str] = []

    def take(target: str, source: str, *axes: Tensor | slice, scale: float = 1.0) -> None:
        w = weights.get(f"{source}.weight")
        if w is None and source == LM_HEAD:
            w = weights.get(f"{EMBED}.weight")  # tied
        if w is None:
            missing.append(f"weights: '{source}.weight' is missing; it is needed for a Llama of {shape.blocks} blocks")
            return
        for dim, axis in enumerate(axes):
            w = w[axis] if dim == 0 else w[:, axis]
        out[f"{target}.weight"] = (w * scale if scale != 1 else w).contiguous()

    hidden = slice(0, subnet.hidden)
    take(EMBED, EMBED, slice(None), hidden)
    take(FINAL_NORM, FINAL_NORM, hidden, scale=gain)
    for i, block in enumerate(subnet.blocks):
        for norm in NORMS:
            take(f"model.layers.{i}.{norm}", f"model.layers.{block}.{norm}", hidden, scale=gain)
    for target, source in original_names(subnet).items():
        linear = target.rpartition(".")[2]
        i = 0 if linear == LM_HEAD else int(target.split(".")[2])
        rows, columns = (channels(width, shape, subnet, i) for width in LINEAR_WIDTHS[linear])
        scale = (subnet.head_size / shape.head_size) ** 0.5 if linear == "q_proj" else 1.0
        take(target, source, rows, columns, scale=scale)
    raise_all(missing)
    return out


def channels(width: Width, shape: ModelShape, subnet: Subnet, i: int) -> Tensor | slice:
    """Which of the original's channels the i-th kept block keeps on one of its widths, as an index."""
    match width:
        case "hidden":
            return slice(0, subnet.hidden)
        case "mlp":
            return slice(0, subnet.mlp[i])
        case "vocab":
            return slice(None)
    step, half = shape.head_size // subnet.head_size, shape.head_size // 2
    pairs = torch.arange(0, half, step)
    inside = torch.cat([pairs, pairs + half])  # channels of one head: [head_size']
    starts = torch.arange(subnet.kv_heads) * shape.head_size
    if width == "q":
        kept = torch.arange(subnet.heads // subnet.kv_heads)
        starts = (torch.arange(subnet.kv_heads)[:, None] * shape.queries_per_kv + kept).flatten() * shape.head_size
    return (starts[:, None] + inside).flatten()  # [heads' * head_size']


def slice_energy(energy: Mapping[str, Tensor], shape: ModelShape, subnet: Subnet) -> dict[str, Tensor]:
    """Input energies by original module name -> by the sliced model's, cut like each linear's inputs."""
    out = {}
    for target, source in original_names(subnet).items():
        if source in energy:
            linear = target.rpartition(".")[2]
            i = 0 if linear == LM_HEAD else int(target.split(".")[2])
            out[target] = energy[source][channels(LINEAR_WIDTHS[linear][1], shape, subnet, i)]
    return out


def check_slice(shape: ModelShape, subnet: Subnet) -> None:
    """Raises `HwfitError` listing why `subnet` cannot be cut out of `shape`."""
    subnet.check(shape)
    problems = []
    if shape.head_size % subnet.head_size:
        problems.append(
            f"subnet: head_size={subnet.head_size} must divide the original's {shape.head_size} "
            "(its rotary frequencies are a subset then)"
        )
    if subnet.heads // subnet.kv_heads > shape.queries_per_kv:
        problems.append(
            f"subnet: {subnet.heads} heads on {subnet.kv_heads} KV heads is more than the original's "
            f"{shape.queries_per_kv} queries a KV head; allowed: heads ≤ {subnet.kv_heads * shape.queries_per_kv}"
        )
    raise_all(problems)


def subnet_config(config: Mapping[str, Any], subnet: Subnet, uneven_mlp: bool = False) -> dict[str, Any]:
    """The original's Hugging Face config with the subnet's sizes, untied, and epsilon rescaled (see the module).

    transformers refuses a LlamaConfig whose hidden size its heads do not divide; such a subnet is written as the
    same function's other name there, a Mistral without sliding window. Load it with the Auto classes.
    Hugging Face's Llama has one MLP width for all blocks: raises `HwfitError` if they differ, unless `uneven_mlp`
    (for ONNX, which takes each block's own), when `intermediate_size` is the widest.
    """
    if len(set(subnet.mlp)) > 1 and not uneven_mlp:
        raise HwfitError(
            f"subnet: MLP widths differ between blocks ({sorted(set(subnet.mlp))}); a Hugging Face Llama has one "
            f"width for all, e.g. {max(subnet.mlp)}; ONNX export takes them as they are"
        )
    mistral = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": None}
    return {
        **config,
        **(mistral if subnet.hidden % subnet.heads else {}),
        "hidden_size": subnet.hidden,
        "intermediate_size": max(subnet.mlp),
        "num_hidden_layers": len(subnet.blocks),
        "num_attention_heads": subnet.heads,
        "num_key_value_heads": subnet.kv_heads,
        "head_dim": subnet.head_size,
        "tie_word_embeddings": False,
        "rms_norm_eps": config.get("rms_norm_eps", 1e-6) * config["hidden_size"] / subnet.hidden,
    }
