"""Precision mixing: W = sum_p a_p Q_p(W0 + B_p A_p) and X = sum_s a_s Q_s(X), one low-rank pair a precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hwfit.kernels.quantise import Grid, clipped_grid, fake_quantise, fake_quantise_activations
from hwfit.precision import Precision

Scheme = tuple[int, int | None] | None
"""How activations are rounded: bits and group; None for not at all."""


class MixedLinear(nn.Module):
    """A linear `[n, k]` at every precision at once.

    The quantised copies are refreshed once per weight update and reused by all architecture steps in between.
    Width masks scale whole rows and whole groups, so quantisation commutes with them and they stay outside.
    """

    def __init__(self, weight: Tensor, precisions: Sequence[Precision], energy: Tensor | None, rank: int, seed: int):
        super().__init__()
        n, k = weight.shape
        generator = torch.Generator().manual_seed(seed)
        self.weight = weight  # [n, k], frozen
        self.precisions = tuple(precisions)
        self.grids: list[Grid | None] = [None if p.is_float else clipped_grid(weight, p, energy) for p in precisions]
        count = len(self.precisions)
        drawn = torch.randn(count, rank, k, generator=generator) / k**0.5  # on the CPU: the same on every device
        self.down = nn.Parameter(drawn.to(weight.device))  # A
        self.up = nn.Parameter(torch.zeros(count, n, rank, device=weight.device))  # B
        self.trained = False  # whether `up` may differ from 0
        self.bank = torch.empty(0)  # [precisions, n, k], the quantised copies

    @torch.no_grad()
    def refresh(self, dtype: torch.dtype) -> None:
        """Requantise every copy from the current low-rank pairs."""
        self.bank = torch.empty(len(self.precisions), *self.weight.shape, dtype=dtype, device=self.weight.device)
        for i, (p, grid) in enumerate(zip(self.precisions, self.grids, strict=True)):
            dense = torch.addmm(self.weight, self.up[i], self.down[i]) if self.trained else self.weight
            self.bank[i] = fake_quantise(dense, p, grid)

    def mixed(self, alpha: Tensor) -> Tensor:
        """The mixed weight `[n, k]` for precision probabilities `alpha[precisions]`."""
        return _Mix.apply(alpha, self.down, self.up, self.bank)  # pyright: ignore[reportReturnType]


class _Mix(torch.autograd.Function):
    """Weighted sum of quantised copies; straight-through to the low-rank pairs, exact in alpha."""

    @staticmethod
    def forward(ctx: Any, alpha: Tensor, down: Tensor, up: Tensor, bank: Tensor) -> Tensor:
        ctx.save_for_backward(alpha, down, up)
        ctx.bank = bank
        return (alpha.to(bank.dtype) @ bank.flatten(1)).view(bank.shape[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        (grad,) = grads
        alpha, down, up = ctx.saved_tensors
        grad_alpha = grad_down = grad_up = None
        if ctx.needs_input_grad[0]:
            grad_alpha = (ctx.bank.flatten(1) @ grad.flatten()).to(alpha.dtype)
        if ctx.needs_input_grad[1]:
            wide = grad.to(down.dtype)
            grad_up = alpha[:, None, None] * torch.einsum("nk,prk->pnr", wide, down)
            grad_down = alpha[:, None, None] * torch.einsum("pnr,nk->prk", up, wide)
        return grad_alpha, grad_down, grad_up, None


class ActivationMix:
    """Activations at every precision the kernels use, quantised once for all linears that share the input."""

    def __init__(self, precisions: Sequence[Precision]):
        self.schemes: list[Scheme] = [None if p.is_float else (p.act_bits, p.group) for p in precisions]
        self.example = {s: p for s, p in zip(self.schemes, precisions, strict=True) if s is not None}

    def quantised(self, x: Tensor, scheme: Scheme) -> Tensor:
        """Q(x) with a straight-through gradient."""
        if scheme is None:
            return x
        return straight_through(x, fake_quantise_activations(x.detach(), self.example[scheme]))

    def mixed(self, x: Tensor, quantised: Mapping[Scheme, Tensor], alpha: Tensor) -> Tensor:
        """sum_s a_s Q_s(x), where a_s adds up the precisions that quantise activations the same way."""
        share: dict[Scheme, Tensor] = {}
        for scheme, a in zip(self.schemes, alpha, strict=True):
            share[scheme] = share[scheme] + a if scheme in share else a
        terms = [a.to(x.dtype) * quantised[s] for s, a in share.items()]
        return torch.stack(terms).sum(0) if len(terms) > 1 else terms[0]


def straight_through(x: Tensor, quantised: Tensor) -> Tensor:
    """`quantised` forwards, identity backwards (arXiv 1308.3432)."""
    return x + (quantised.to(x.dtype) - x).detach()
