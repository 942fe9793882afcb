"""Importance: order MLP neurons, KV groups and blocks so that every subnet is a prefix (one calibration pass).

Hidden channels need no order of their own: a fetched model is rotated onto its principal components.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hwfit.progress import track
from hwfit.search.forward import Attention, plain_forward, weight_name
from hwfit.subnet import LINEARS, ModelShape


@dataclass(frozen=True)
class Importance:
    """`energy[module]`: mean square of each input channel. `blocks[b]`: 1 - cos(block input, block output)."""

    energy: dict[str, Tensor]
    blocks: Tensor

    @property
    def block_order(self) -> tuple[int, ...]:
        """Block indices, most important first."""
        return tuple(self.blocks.argsort(descending=True, stable=True).tolist())


@dataclass(frozen=True)
class Ordered:
    """A model whose neurons and KV groups are in order of importance, and what was measured on the way."""

    weights: dict[str, Tensor]
    energy: dict[str, Tensor]
    block_order: tuple[int, ...]


@torch.no_grad()
def measure_importance(
    weights: Mapping[str, Tensor], config: Mapping[str, Any], ids: Tensor, progress: bool = True
) -> Importance:
    """One forward pass over `ids[n, seq]`.

    The first position is left out: its activations are hundreds of times larger (an attention sink) and would
    decide every mean. Blocks are scored as in Minitron (arXiv 2407.14679).
    """
    shape = ModelShape.from_config(config)
    attention = Attention.of(shape.heads, shape.kv_heads, shape.head_size, config)
    energy: dict[str, Tensor] = {}
    cosine = torch.zeros(shape.blocks)
    before: dict[int, Tensor] = {}

    def project(block: int, names: tuple[str, ...], x: Tensor) -> list[Tensor]:
        square = x[:, 1:].square().mean((0, 1))
        for name in names:
            module = weight_name(block, name)
            energy[module] = energy.get(module, 0) + square
        return [F.linear(x, weights[f"{weight_name(block, name)}.weight"]) for name in names]

    def seen(block: int, x: Tensor) -> None:
        if block:
            cosine[block - 1] += F.cosine_similarity(before[block - 1], x[:, 1:], dim=-1).mean()
        before.clear()
        before[block] = x[:, 1:]

    with track(len(ids), "Importance", progress) as advance:
        for row in ids.split(2):
            hidden = plain_forward(row, weights, attention, shape.blocks, float(config["rms_norm_eps"]), project, seen)
            energy["lm_head"] = energy.get("lm_head", 0) + hidden[:, 1:].square().mean((0, 1))
            advance(len(row))
    batches = -(-len(ids) // 2)
    return Importance({name: e / batches for name, e in energy.items()}, 1 - cosine / batches)


@torch.no_grad()
def order_model(weights: Mapping[str, Tensor], shape: ModelShape, importance: Importance) -> Ordered:
    """Permute MLP neurons and KV groups, most important first; the model's function does not change.

    A neuron or head channel counts as its mean squared input times the squared norm of the column that reads it.
    """
    out, energy = dict(weights), dict(importance.energy)
    d, per_kv = shape.head_size, shape.queries_per_kv
    for block in range(shape.blocks):
        modules = {name: weight_name(block, name) for name in LINEARS}
        value = {
            name: energy[modules[name]] * weights[f"{modules[name]}.weight"].square().sum(0)
            for name in ("o_proj", "down_proj")
        }
        neurons = value["down_proj"].argsort(descending=True)
        groups = value["o_proj"].view(shape.kv_heads, -1).sum(1).argsort(descending=True)
        kv = (groups[:, None] * d + torch.arange(d)).flatten()
        q = (groups[:, None] * d * per_kv + torch.arange(d * per_kv)).flatten()
        for name, rows in {"gate_proj": neurons, "up_proj": neurons, "q_proj": q, "k_proj": kv, "v_proj": kv}.items():
            key = f"{modules[name]}.weight"
            out[key] = weights[key][rows].contiguous()
        for name, columns in {"down_proj": neurons, "o_proj": q}.items():
            key = f"{modules[name]}.weight"
            out[key] = weights[key][:, columns].contiguous()
            energy[modules[name]] = energy[modules[name]][columns]
    return Ordered(out, energy, importance.block_order)
