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
    """`energy[module]`: mean square of each input channel. `blocks[b]`: 1 - cos(block input, block output).

    `neuron_peak[b]` is the largest magnitude of each MLP neuron's output in block b, first position included.
    `moments[module]` is E[x x'] of the inputs, `[k, k]`, of every `o_proj` and `down_proj`; on the CPU, for they take
    as much room as the weights and are read once a subnet.
    """

    energy: dict[str, Tensor]
    blocks: Tensor
    neuron_peak: tuple[Tensor, ...]
    moments: dict[str, Tensor]

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
    moments: dict[str, Tensor]


@torch.no_grad()
def measure_importance(
    weights: Mapping[str, Tensor], config: Mapping[str, Any], ids: Tensor, progress: bool = True
) -> Importance:
    """One forward pass over `ids[n, seq]`, on the device that holds them and `weights`.

    The first position is left out: its activations are hundreds of times larger (an attention sink) and would
    decide every mean. Blocks are scored as in Minitron (arXiv 2407.14679).
    """
    shape = ModelShape.from_config(config)
    attention = Attention.of(shape.heads, shape.kv_heads, shape.head_size, config)
    energy: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    cosine = torch.zeros(shape.blocks, device=ids.device)
    before: dict[int, Tensor] = {}
    peak = torch.zeros(shape.blocks, shape.mlp, device=ids.device)

    def project(block: int, names: tuple[str, ...], x: Tensor) -> list[Tensor]:
        if names == ("down_proj",):
            peak[block] = torch.maximum(peak[block], x.abs().amax((0, 1)))
        later = x[:, 1:].flatten(0, 1)  # [batch x (seq - 1), k]
        square = later.square().mean(0)
        if names in (("o_proj",), ("down_proj",)):
            module = weight_name(block, names[0])
            moments[module] = moments.get(module, 0) + (later.T @ later / len(later)).cpu()
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
    for total in (*energy.values(), *moments.values()):
        total /= batches
    return Importance(energy, 1 - cosine / batches, tuple(peak), moments)


@torch.no_grad()
def order_model(weights: dict[str, Tensor], shape: ModelShape, importance: Importance, take: bool = False) -> Ordered:
    """Permute MLP neurons and KV groups, most important first; the model's function does not change.

    A neuron or head channel counts as its mean squared input times the squared norm of the column that reads it.
    On the way, outlier neurons are made smaller in `up_proj` and larger in `down_proj` (see `smoothing`). `take`
    empties `weights` and `importance`, so that no more than one copy of the model is held.
    """
    out, energy, moments = dict(weights), dict(importance.energy), dict(importance.moments)
    if take:
        weights.clear()
        importance.moments.clear()
    d, per_kv = shape.head_size, shape.queries_per_kv
    for block in range(shape.blocks):
        modules = {name: weight_name(block, name) for name in LINEARS}
        value = {
            name: energy[modules[name]] * out[f"{modules[name]}.weight"].square().sum(0)
            for name in ("o_proj", "down_proj")
        }
        neurons = value["down_proj"].argsort(descending=True)
        groups = value["o_proj"].view(shape.kv_heads, -1).sum(1).argsort(descending=True)
        kv = (groups[:, None] * d + torch.arange(d, device=groups.device)).flatten()
        q = (groups[:, None] * d * per_kv + torch.arange(d * per_kv, device=groups.device)).flatten()
        for name, rows in {"gate_proj": neurons, "up_proj": neurons, "q_proj": q, "k_proj": kv, "v_proj": kv}.items():
            key = f"{modules[name]}.weight"
            out[key] = out[key][rows].contiguous()
        for name, columns in {"down_proj": neurons, "o_proj": q}.items():
            key = f"{modules[name]}.weight"
            out[key] = out[key][:, columns].contiguous()
            energy[modules[name]] = energy[modules[name]][columns]
            moments[modules[name]] = moments[modules[name]][columns.cpu()][:, columns.cpu()]
        scale = smoothing(importance.neuron_peak[block])[neurons]
        out[f"{modules['up_proj']}.weight"] /= scale[:, None]
        out[f"{modules['down_proj']}.weight"] *= scale
        energy[modules["down_proj"]] = energy[modules["down_proj"]] / scale.square()
        scale = scale.cpu()
        moments[modules["down_proj"]] = moments[modules["down_proj"]] / (scale[:, None] * scale)
    return Ordered(out, energy, importance.block_order, moments)


def smoothing(peak: Tensor) -> Tensor:
    """How much smaller to make each neuron, `[mlp]`, so that a few outliers do not set the scale of all activations.

    sqrt(peak / median peak) for the neurons above the median (SmoothQuant, arXiv 2211.10438, with alpha = 1/2): the
    per-tensor activation scale of W8A8 shrinks with the largest neuron, and `down_proj` takes the factor back.
    """
    return (peak / peak.median().clamp_min(1e-12)).clamp_min(1).sqrt()
