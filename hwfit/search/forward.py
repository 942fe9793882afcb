"""A Llama forward pass with its linears and norms passed in, shared by teacher, supernet and student."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hwfit.deploy.slice import module_name
from hwfit.rotary import Rotary

Project = Callable[[int, tuple[str, ...], Tensor], Sequence[Tensor]]
"""(block, linears that share this input, x[batch, seq, k]) -> one y[batch, seq, n] per linear."""
Norm = Callable[[int, str, Tensor], Tensor]

CPU = torch.device("cpu")
QKV = ("q_proj", "k_proj", "v_proj")
GATE_UP = ("gate_proj", "up_proj")


@dataclass(frozen=True)
class Attention:
    """Head layout and rotary embedding; `scale` is the softmax scale."""

    heads: int
    kv_heads: int
    head_size: int
    rotary: Rotary
    scale: float

    @classmethod
    def of(cls, heads: int, kv_heads: int, head_size: int, config: Mapping[str, Any]) -> Attention:
        return cls(heads, kv_heads, head_size, Rotary.of(config), head_size**-0.5)


@cache
def rotary_tables(
    attention: Attention, seq: int, dtype: torch.dtype, device: torch.device = CPU
) -> tuple[Tensor, Tensor]:
    """cos and sin, `[seq, head_size]` each, in the half-split layout of Hugging Face Llama."""
    halves = (torch.from_numpy(table).to(device, dtype) for table in attention.rotary.tables(attention.head_size, seq))
    cos, sin = (torch.cat((half, half), dim=-1) for half in halves)  # [seq, head_size / 2] each half
    return cos, sin


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of `x[batch, heads, seq, head_size]`."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


def rms_norm(x: Tensor, gain: Tensor, eps: float, width: Tensor | float | None = None) -> Tensor:
    """RMSNorm whose mean divides by `width` channels (all of them unless given)."""
    wide = x.float()
    square = wide.square().sum(-1, keepdim=True) / (x.shape[-1] if width is None else width)
    return (wide * torch.rsqrt(square + eps) * gain).to(x.dtype)


def decoder(
    x: Tensor,
    blocks: Iterable[int],
    attention: Attention,
    project: Project,
    norm: Norm,
    gate: Callable[[int], Tensor | float] = lambda block: 1.0,
    seen: Callable[[int, Tensor], None] | None = None,
    recompute: bool = False,
) -> Tensor:
    """Runs `blocks` in order over the residual stream `x[batch, seq, hidden]`.

    `gate(block)` scales what a block adds to the stream; `seen(block, x)` observes each block's input. With
    `recompute`, backwards runs each block again in place of remembering it (gradient checkpointing); what is passed in
    must then draw no random numbers.
    """
    a = attention
    batch, seq, _ = x.shape
    cos, sin = rotary_tables(a, seq, x.dtype, x.device)

    def run(x: Tensor, block: int) -> Tensor:
        g = gate(block)
        q, k, v = project(block, QKV, norm(block, "input_layernorm", x))
        q = rotate(q.view(batch, seq, a.heads, a.head_size).transpose(1, 2), cos, sin)
        k = rotate(k.view(batch, seq, a.kv_heads, a.head_size).transpose(1, 2), cos, sin)
        v = v.view(batch, seq, a.kv_heads, a.head_size).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=a.scale, enable_gqa=True)
        mixed = mixed.transpose(1, 2).reshape(batch, seq, a.heads * a.head_size)
        x = x + g * project(block, ("o_proj",), mixed)[0]
        gated, up = project(block, GATE_UP, norm(block, "post_attention_layernorm", x))
        return x + g * project(block, ("down_proj",), F.silu(gated) * up)[0]

    for block in blocks:
        if seen:
            seen(block, x)
        if recompute and torch.is_grad_enabled():
            x = checkpoint(run, x, block, use_reentrant=False, preserve_rng_state=False)  # pyright: ignore[reportAssignmentType]
        else:
            x = run(x, block)
    return x


def weight_name(block: int, linear: str) -> str:
    """Hugging Face module name of a linear; `lm_head` stands outside the blocks."""
    return linear if linear == "lm_head" else module_name(block, linear)


def plain_forward(
    ids: Tensor,
    weights: Mapping[str, Tensor],
    attention: Attention,
    depth: int,
    eps: float,
    project: Project | None = None,
    seen: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Final normalised hidden states `[batch, seq, hidden]` of a Hugging Face Llama state dict."""

    def linear(block: int, names: tuple[str, ...], x: Tensor) -> list[Tensor]:
        return [F.linear(x, weights[f"{weight_name(block, name)}.weight"]) for name in names]

    def norm(block: int, name: str, x: Tensor) -> Tensor:
        return rms_norm(x, weights[f"model.layers.{block}.{name}.weight"].float(), eps)

    x = F.embedding(ids, weights["model.embed_tokens.weight"])
    x = decoder(x, range(depth), attention, project or linear, norm, seen=seen)
    if seen:
        seen(depth, x)
    return rms_norm(x, weights["model.norm.weight"].float(), eps)
