"""A whole training step of the block with quantisation on: six precisions on three weight grids, low-rank pairs, Adam.

One step is forward, backward to the pairs and to every choice, an update of the pairs, and what that makes necessary:
ours rounds its copies anew, once for all the forward passes until the next update; the others mix the widths and round
what they mixed in every forward pass, sum_g a_g Q_g(mixed W + (r B_g)(A_g c)), as the paper does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.supernet_masks.setting import soft_choices
from hwfit.kernels.quantise import Grid, fake_quantise
from hwfit.latency_models.choices import Choices
from hwfit.precision import Precision
from hwfit.search.forward import decoder
from hwfit.search.supernet import CUT, Mix, Supernet
from hwfit.space import LINEAR_WIDTHS
from hwfit.subnet import LINEARS

Handed = dict[str, list[Tensor]]
"""For each linear, its weight with the widths mixed in: one `[n, k]`, or a part for each cut."""


class RoundedAfterMixing(Mix):
    """A mix whose linears get weights with the widths mixed in already, and round them in every forward pass.

    Grids are the supernet's, scaled with the masks, so that the numbers are the same.
    """

    def __init__(self, net: Supernet, choices: Choices, handed: Handed):
        super().__init__(net, choices)
        self.handed = handed

    def project(self, block: int, names: tuple[str, ...], x: Tensor) -> list[Tensor]:
        mix, cuts = self.net.activations, self.net.cuts if CUT in names else []
        cut, rounded, out = self.head_size if cuts else None, mix.every(x, cuts), []
        for name in names:
            alpha = self.alphas[name][block]
            out.append(F.linear(mix.mixed(x, rounded, alpha, cut), self.weight(block, name, alpha)))
        return out

    def norm(self, block: int, name: str, x: Tensor) -> Tensor:
        y = super().norm(block, name, x)
        return y if self.masks.hidden is None else y * self.masks.hidden

    def weight(self, block: int, name: str, alpha: Tensor) -> Tensor:
        linear = self.net.linear(block, name)
        r, columns = self.masks.of(LINEAR_WIDTHS[name][0], block), self.columns(block, name)
        assert r is not None
        total = torch.zeros_like(linear.weight)
        for i, (kept, c, mixed) in enumerate(zip(linear.cuts, columns, self.handed[name], strict=True)):
            part = torch.zeros_like(mixed)
            for g, p in enumerate(linear.kinds.example):
                dense = torch.addmm(mixed, r[:, None] * linear.up[g], linear.down[g][:, kept] * c)
                grid = linear.grids[g][i]
                if grid is not None:
                    grid = Grid(grid.scales * torch.outer(r, c[:: p.group]).detach(), grid.zeros)
                part = part + linear.kinds.share(alpha)[g] * _Rounded.apply(dense, p, grid)  # pyright: ignore
            total = part if isinstance(kept, slice) else total.index_add(1, kept, part)
        return total

    def columns(self, block: int, name: str) -> list[Tensor]:
        """The input mask of every cut of a linear, on the inputs that it keeps."""
        linear = self.net.linear(block, name)
        if isinstance(linear.cuts[0], slice):
            return [_given(self.masks.of(LINEAR_WIDTHS[name][1], block), linear.weight.shape[1])]
        heads = _given(self.masks.heads, linear.weight.shape[1])
        return [heads[kept] * p for kept, p in zip(linear.cuts, self.head_size, strict=True)]


class _Rounded(torch.autograd.Function):
    """Straight-through, without a copy of what is rounded."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, p: Precision, grid: Grid | None) -> Tensor:
        return fake_quantise(weight, p, grid)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0], None, None


def _given(mask: Tensor | None, width: int) -> Tensor:
    return torch.ones(width) if mask is None else mask


@dataclass
class Step:
    """The same step in both ways, over one supernet with quantisation on."""

    net: Supernet
    tokens: int

    def __post_init__(self) -> None:
        hidden, device = self.net.space.shape.hidden, self.net.device
        g = torch.Generator().manual_seed(2)
        self.x, self.direction = (torch.randn(1, self.tokens, hidden, generator=g).to(device) for _ in range(2))
        self.pairs = [p for name in LINEARS for p in self.net.linear(0, name).parameters()]
        self.optimizer = torch.optim.AdamW(self.pairs, lr=1e-6, weight_decay=0.0)

    def handed(self, choices: Choices) -> Handed:
        """Every linear's mixed weight, by the masks' outer product; what mixing it otherwise costs is timed alone."""
        mix = RoundedAfterMixing(self.net, choices, {})
        out: Handed = {}
        for name in LINEARS:
            linear, r = self.net.linear(0, name), mix.masks.of(LINEAR_WIDTHS[name][0], 0)
            assert r is not None
            out[name] = [
                linear.weight[:, kept] * r[:, None] * c
                for kept, c in zip(linear.cuts, mix.columns(0, name), strict=True)
            ]
        return out

    def run(self, mix: Mix) -> Tensor:
        """Forward and backward; the output."""
        self.optimizer.zero_grad()
        out = decoder(self.x, [0], self.net.attention, mix.project, mix.norm, mix.gate)
        (out * self.direction).sum().backward()
        return out.detach()

    def ours(self, choices: Choices) -> None:
        self.run(Mix(self.net, choices))
        self.optimizer.step()
        self.net.refresh()

    def rest_of_theirs(self, choices: Choices, handed: Handed) -> None:
        """The others' step but for mixing the widths: from mixed weights, and back to their gradients."""
        self.run(RoundedAfterMixing(self.net, choices, handed))
        self.optimizer.step()

    def difference(self) -> tuple[float, float]:
        """Between both ways: root mean square over that of the reference, of outputs, and the worst of the gradients.

        Of precisions and pairs: those of widths differ by what straight-through ignores in theirs. In ours they are
        exact, for what is rounded does not depend on them.
        """
        found: list[tuple[Tensor, Sequence[Tensor]]] = []
        for ours in (True, False):
            choices = soft_choices(self.net.space, self.net.device)
            mix = Mix(self.net, choices) if ours else RoundedAfterMixing(self.net, choices, self.handed(choices))
            y = self.run(mix)
            grads = [p.grad.clone() for p in (choices.precision, *self.pairs) if p.grad is not None]
            found.append((y, grads))
        (mine, our_grads), (theirs, their_grads) = found
        gradient = max(_rms(a, b) for a, b in zip(our_grads, their_grads, strict=True))
        return _rms(mine, theirs), gradient


def _rms(got: Tensor, want: Tensor) -> float:
    return float((got - want).square().mean().sqrt() / want.square().mean().sqrt().clamp_min(1e-30))


def leaves(handed: Mapping[str, Sequence[Tensor]]) -> Handed:
    """The same with gradients of their own."""
    return {name: [t.detach().requires_grad_() for t in parts] for name, parts in handed.items()}
