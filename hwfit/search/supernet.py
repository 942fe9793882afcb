"""Supernet: one shared set of weights that runs any mix of the space's subnets at the cost of one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwfit.kernels.quantise import fake_quantise, minmax_grid
from hwfit.latency_models.differentiable import Choices
from hwfit.progress import track
from hwfit.search.forward import Attention, decoder, rms_norm, weight_name
from hwfit.search.masks import head_size_cuts, keep_gates, masked, soft_masks
from hwfit.search.mixing import ActivationMix, MixedLinear
from hwfit.space import LINEAR_WIDTHS, Space
from hwfit.subnet import LINEARS

Watch = Callable[[int, str, Tensor, Tensor], None]
CUT = "o_proj"
"""The linear whose groups of inputs a smaller head size cuts through."""


class Supernet(nn.Module):
    """Weight entanglement over widths, a precision bank per linear, importance-ranked depth.

    `weights` are in importance order (see `importance.order_model`), so every subnet is a prefix;
    `block_order` lists block indices, most important first; `energy` maps module names to the mean square of
    each input channel and weights the quantisers' clip search. Everything lives where `weights` do; `choices` may come
    from the CPU, where reading them does not wait for a GPU. With `recompute`, backwards runs every block again in
    place of remembering it: about a third more time, and the memory of one block.
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
        recompute: bool = False,
    ):
        super().__init__()
        self.space, self.dtype, self.recompute = space, dtype, recompute
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
        self.activations = ActivationMix(space.precisions, self.device)
        self.names = [(b, name) for b in range(s.blocks) for name in LINEARS] + [(-1, "lm_head")]
        self.cuts = self.cuts_of(space, self.device)
        with track(len(self.names), "Quantising the supernet", progress) as advance:
            for seed, (block, name) in enumerate(self.names):
                module = weight_name(block, name)
                linear = MixedLinear(
                    weights[f"{module}.weight"],
                    space.precisions,
                    energy[module] if energy else None,
                    rank,
                    seed,
                    self.cuts if name == CUT else (),
                )
                linear.refresh(dtype)
                self.linears[_key(block, name)] = linear
                advance()

    @staticmethod
    def cuts_of(space: Space, device: torch.device) -> list[Tensor]:
        """What each head size keeps of `o_proj`'s inputs, if there are groups for a choice of it to cut through.

        Precisions without groups keep the scale of the whole row at every width.
        """
        cut = space.head_size != (space.shape.head_size,) and any(p.group for p in space.precisions)
        return [kept.to(device) for kept in head_size_cuts(space)] if cut else []

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

        `watch(block, linear, x, y)` observes every linear's masked input and its output; nothing is run again then.
        """
        mix = Mix(self, choices, watch)
        x = masked(F.embedding(ids, self.embed), mix.masks.hidden)
        recompute = self.recompute and watch is None
        x = decoder(x, mix.blocks, self.attention, mix.project, mix.norm, mix.gate, recompute=recompute)
        return mix.project(-1, ("lm_head",), rms_norm(x, self.gains["model.norm.weight"], self.eps))[0]


class Mix:
    """One mix of a supernet's subnets: what `choices` come to as masks, gates and shares, on the supernet's device."""

    def __init__(self, net: Supernet, choices: Choices, watch: Watch | None = None):
        c, space, blocks = choices, net.space, net.space.shape.blocks
        self.net, self.watch = net, watch
        masks = soft_masks(space, c.hidden, c.heads, c.head_size, c.mlp)
        self.masks = masks.map(lambda t: t.to(net.device, net.dtype))
        gates = keep_gates(c.depth, space.depth, blocks)
        opened = gates.tolist()
        self.blocks = [b for b in range(blocks) if opened[net.rank_of[b]] > 0]
        self.scales = gates.to(net.device, net.dtype)
        self.certain = _certain(c, bool(net.cuts))
        self.head_size = c.head_size.to(net.device)
        rows = c.precision.expand(-1, len(LINEARS), -1)  # a row by linear where a block has one for all
        self.alphas = {name: rows[:, i].to(net.device) for i, name in enumerate(LINEARS)}
        self.alphas["lm_head"] = c.lm_head[None].to(net.device)

    def project(self, block: int, names: tuple[str, ...], x: Tensor) -> list[Tensor]:
        """What the mixed linears `names` of a block make of `x[batch, seq, k]`, which follows a norm or a linear.

        After a norm the mask counts twice, for the norm's gains are mixed as well.
        """
        mask = self.inner(block, names[0])
        if mask is not None and LINEAR_WIDTHS[names[0]][1] == "hidden":
            mask = mask * mask
        return self.linears(block, names, masked(x, mask))

    def inner(self, block: int, name: str) -> Tensor | None:
        """The mask of a linear's inputs; the copies of a cut hold the choice of head size themselves."""
        cut = name == CUT and self.net.cuts
        return self.masks.heads if cut else self.masks.of(LINEAR_WIDTHS[name][1], block)

    def linears(self, block: int, names: tuple[str, ...], x: Tensor) -> list[Tensor]:
        """The mixed and masked outputs of linears whose common input is masked already."""
        net, cuts = self.net, self.net.cuts if CUT in names else []
        out: list[Tensor] = []
        cut = self.head_size if cuts else None
        rounded = [] if self.certain else net.activations.every(x, cuts)
        known: dict[int, Tensor] = {}
        for name in names:
            linear = net.linear(block, name)
            if self.certain:
                p, size = self.certain.precision[block, name], self.certain.head_size if cuts else 0
                kind = net.activations.kinds.of[p]
                if kind not in known:
                    known[kind] = net.activations.rounded(x, kind, cuts[size] if cuts else None)
                y = F.linear(known[kind], linear.copy(p, size))
            else:
                alpha = self.alphas[name][block]
                y = linear(net.activations.mixed(x, rounded, alpha, cut), alpha, cut)
            if self.watch:
                self.watch(block, name, x, y)
            out.append(masked(y, self.masks.of(LINEAR_WIDTHS[name][0], block)))
        return out

    def norm(self, block: int, name: str, x: Tensor) -> Tensor:
        """RMSNorm; `project` masks its gains together with the inputs of what follows."""
        return rms_norm(x, self.net.gains[f"model.layers.{block}.{name}.weight"], self.net.eps)

    def gate(self, block: int) -> Tensor:
        """Probability that a block is kept."""
        return self.scales[self.net.rank_of[block]]


@dataclass(frozen=True)
class _Certain:
    """The chosen precision of every linear, and the chosen head size."""

    precision: Mapping[tuple[int, str], int]
    head_size: int


def _certain(choices: Choices, cuts: bool) -> _Certain | None:
    """What is chosen where that is certain for every linear and no gradient is asked for, else None."""
    asked = [choices.precision.amax(-1), choices.lm_head.amax()[None]] + [choices.head_size.amax()[None]] * cuts
    if torch.is_grad_enabled() or not all(bool((t == 1).all()) for t in asked):
        return None
    rows = choices.precision.expand(-1, len(LINEARS), -1).argmax(-1).tolist()
    chosen = {(b, name): i for b, row in enumerate(rows) for name, i in zip(LINEARS, row, strict=True)}
    return _Certain(chosen | {(-1, "lm_head"): int(choices.lm_head.argmax())}, int(choices.head_size.argmax()))


def _key(block: int, name: str) -> str:
    return name if name == "lm_head" else f"{block}_{name}"
