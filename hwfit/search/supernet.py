"""Supernet: one shared set of weights that runs any mix of the space's subnets at the cost of one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwfit.kernels.quantise import fake_quantise, minmax_grid
from hwfit.latency_models.differentiable import Choices
from hwfit.progress import track
from hwfit.search.forward import Attention, decoder, rms_norm, weight_name
from hwfit.search.masks import Masks, keep_gates, soft_masks
from hwfit.search.mixing import ActivationMix, MixedLinear
from hwfit.space import LINEAR_WIDTHS, Space
from hwfit.subnet import LINEARS

Watch = Callable[[int, str, Tensor, Tensor], None]


class Supernet(nn.Module):
    """Weight entanglement over widths, a precision bank per linear, importance-ranked depth.

    `weights` are in importance order (see `importance.order_model`), so every subnet is a prefix;
    `block_order` lists block indices, most important first; `energy` maps module names to the mean square of
    each input channel and weights the quantisers' clip search. Everything lives where `weights` do; `choices` may come
    from the CPU, where reading them does not wait for a GPU.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        config: Mapping[str, Any],
        space: Space,
        block_order: Sequence[int],
        energy: Mapping[str, Tensor] | None = None,
        rank: int = 8,
        dtype: torch.dtype = torch.float32,
        progress: bool = False,
    ):
        super().__init__()
        self.space, self.dtype = space, dtype
        self.device = weights["model.embed_tokens.weight"].device
        self.rank_of = {block: rank for rank, block in enumerate(block_order)}
        s = space.shape
        self.attention = Attention.of(s.heads, s.kv_heads, s.head_size, config)
        self.eps = float(config["rms_norm_eps"])
        embed = weights["model.embed_tokens.weight"]
        if not space.embed.is_float:
            embed = fake_quantise(embed, space.embed, minmax_grid(embed, space.embed))
        self.embed = embed.to(dtype)
        self.gains = {name: w.float() for name, w in weights.items() if name.endswith("norm.weight")}
        self.linears = nn.ModuleDict()
        self.activations = ActivationMix(space.precisions)
        self.names = [(b, name) for b in range(s.blocks) for name in LINEARS] + [(-1, "lm_head")]
        with track(len(self.names), "Quantising the supernet", progress) as advance:
            for seed, (block, name) in enumerate(self.names):
                module = weight_name(block, name)
                linear = MixedLinear(
                    weights[f"{module}.weight"], space.precisions, energy[module] if energy else None, rank, seed
                )
                linear.refresh(dtype)
                self.linears[_key(block, name)] = linear
                advance()

    def refresh(self) -> None:
        """Requantise after a weight step."""
        for block, name in self.names:
            linear = self.linear(block, name)
            linear.trained = True
            linear.refresh(self.dtype)

    def linear(self, block: int, name: str) -> MixedLinear:
        linear = self.linears[_key(block, name)]
        assert isinstance(linear, MixedLinear)
        return linear

    def forward(self, ids: Tensor, choices: Choices, watch: Watch | None = None) -> Tensor:
        """Logits `[batch, seq, vocab]` of the mix `choices`; blocks whose gate is 0 are not run.

        `watch(block, linear, x, y)` observes every linear's masked input and its output.
        """
        c = choices
        masks = soft_masks(self.space, c.hidden, c.heads, c.head_size, c.mlp)
        masks = Masks(*(getattr(masks, w).to(self.device, self.dtype) for w in ("hidden", "q", "kv", "mlp")))
        gates = keep_gates(c.depth, self.space.depth, self.space.shape.blocks)
        open_gates = gates.tolist()
        kept = [b for b in range(self.space.shape.blocks) if open_gates[self.rank_of[b]] > 0]
        scales = gates.to(self.device, self.dtype)
        certain = _certain(c)
        alphas = {name: c.precision[:, i].to(self.device) for i, name in enumerate(LINEARS)}
        alphas["lm_head"] = c.lm_head[None].to(self.device)

        def project(block: int, names: tuple[str, ...], x: Tensor) -> list[Tensor]:
            inner = masks.of(LINEAR_WIDTHS[names[0]][1], block)
            x = x if inner is None else x * inner
            chosen = {name: certain[block, name] for name in names} if certain else {}
            schemes = {self.activations.schemes[i] for i in chosen.values()} or set(self.activations.schemes)
            quantised = {scheme: self.activations.quantised(x, scheme) for scheme in schemes}
            out = []
            for name in names:
                linear = self.linear(block, name)
                if name in chosen:
                    y = F.linear(quantised[self.activations.schemes[chosen[name]]], linear.bank[chosen[name]])
                else:
                    alpha = alphas[name][block]
                    y = F.linear(self.activations.mixed(x, quantised, alpha), linear.mixed(alpha))
                if watch:
                    watch(block, name, x, y)
                outer = masks.of(LINEAR_WIDTHS[name][0], block)
                out.append(y if outer is None else y * outer)
            return out

        def norm(block: int, name: str, x: Tensor) -> Tensor:
            return rms_norm(x, self.gains[f"model.layers.{block}.{name}.weight"] * masks.hidden, self.eps)

        def gate(block: int) -> Tensor:
            return scales[self.rank_of[block]]

        x = F.embedding(ids, self.embed) * masks.hidden
        x = decoder(x, kept, self.attention, project, norm, gate)
        x = rms_norm(x, self.gains["model.norm.weight"] * masks.hidden, self.eps)
        return project(-1, ("lm_head",), x)[0]


def _certain(choices: Choices) -> dict[tuple[int, str], int] | None:
    """The chosen precision of every linear where each is certain and no gradient is asked for, else None."""
    if torch.is_grad_enabled() or not bool((choices.precision.amax(-1) == 1).all() & (choices.lm_head.amax() == 1)):
        return None
    rows = choices.precision.argmax(-1).tolist()
    chosen = {(b, name): i for b, row in enumerate(rows) for name, i in zip(LINEARS, row, strict=True)}
    return chosen | {(-1, "lm_head"): int(choices.lm_head.argmax())}


def _key(block: int, name: str) -> str:
    return name if name == "lm_head" else f"{block}_{name}"
