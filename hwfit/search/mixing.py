"""Precision mixing: W = sum_g a_g Q_g(W0 + B_g A_g) over weight grids, X = sum_s a_s Q_s(X) over activation schemes.

Precisions that round weights alike (w4a16g128 and w4a8g128) share one grid: one quantised copy, one low-rank pair.
Where a width choice keeps inputs that do not fall on group borders (`Cuts`), every choice has copies of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwfit.kernels.quantise import Grid, clipped_grid, fake_quantise, fake_quantise_activations
from hwfit.precision import Precision

Cuts = Sequence[Tensor]
"""For each choice of an input width, the inputs it keeps, ascending. Empty where all choices fall on group borders."""


class Kinds:
    """Precisions sorted by what they share: `of[p]` is the kind of precision `p`, `example[kind]` one that has it."""

    def __init__(self, precisions: Sequence[Precision], key: Callable[[Precision], Hashable], device: torch.device):
        keys = list(dict.fromkeys(map(key, precisions)))
        self.of = [keys.index(key(p)) for p in precisions]
        self.example = [next(p for p in precisions if key(p) == k) for k in keys]
        self.spread = F.one_hot(torch.tensor(self.of), len(keys)).float().to(device)  # [precisions, kinds]

    def __len__(self) -> int:
        return len(self.example)

    def share(self, alpha: Tensor, cut: Tensor | None = None) -> Tensor:
        """`alpha[precisions]` added up by kind: `[kinds]`; with `cut[choices]`, times those: `[kinds x choices]`."""
        share = (alpha[:, None] * self.spread.to(alpha.dtype)).sum(0)
        return share if cut is None else torch.outer(share, cut).flatten()


def weight_grid(p: Precision) -> Hashable:
    """Equal for precisions that round weights alike."""
    return p.weight_bits, None if p.is_float else p.group, p.float8


def activation_scheme(p: Precision) -> Hashable:
    """Equal for precisions that round activations alike; None where they do not round them."""
    return None if p.act_bits >= 16 else (p.act_bits, p.group, p.float8)


class MixedLinear(nn.Module):
    """A linear `[n, k]` at every precision at once.

    The quantised copies are refreshed once per weight update and reused by all architecture steps in between.
    Width masks scale whole rows and whole groups, so quantisation commutes with them and they stay outside. With
    `cuts`, a copy of choice c is rounded in groups of the inputs that c keeps, and is 0 for those it drops.
    """

    def __init__(
        self,
        weight: Tensor,
        precisions: Sequence[Precision],
        energy: Tensor | None,
        rank: int,
        seed: int,
        cuts: Cuts = (),
    ):
        super().__init__()
        n, k = weight.shape
        generator = torch.Generator().manual_seed(seed)
        self.weight = weight  # [n, k], frozen
        self.cuts: list[Tensor | slice] = [c.to(weight.device) for c in cuts] or [slice(None)]
        self.kinds = Kinds(precisions, weight_grid, weight.device)
        self.grids = [[_grid(weight, p, energy, kept) for kept in self.cuts] for p in self.kinds.example]
        count = len(self.kinds)
        drawn = torch.randn(count, rank, k, generator=generator) / k**0.5  # on the CPU: the same on every device
        self.down = nn.Parameter(drawn.to(weight.device))  # A
        self.up = nn.Parameter(torch.zeros(count, n, rank, device=weight.device))  # B
        self.trained = False  # whether `up` may differ from 0
        self.bank = torch.empty(0)  # [grids x cuts, n, k], the quantised copies

    @torch.no_grad()
    def refresh(self, dtype: torch.dtype) -> None:
        """Requantise every copy from the current low-rank pairs, in place."""
        size = (len(self.kinds) * len(self.cuts), *self.weight.shape)
        if self.bank.shape != size or self.bank.dtype != dtype:
            self.bank = torch.zeros(size, dtype=dtype, device=self.weight.device)
        copies = iter(self.bank)
        for i, (p, grids) in enumerate(zip(self.kinds.example, self.grids, strict=True)):
            dense = torch.addmm(self.weight, self.up[i], self.down[i]) if self.trained else self.weight
            for kept, grid in zip(self.cuts, grids, strict=True):
                next(copies)[:, kept] = fake_quantise(dense[:, kept], p, grid).to(dtype)

    def copy(self, precision: int, cut: int = 0) -> Tensor:
        """The quantised copy `[n, k]` of one precision, for one choice of the cut."""
        return self.bank[self.kinds.of[precision] * len(self.cuts) + cut]

    def forward(self, x: Tensor, alpha: Tensor, cut: Tensor | None = None) -> Tensor:
        """`x[..., k]` times the mixed weight: `alpha[precisions]` and, with cuts, `cut[choices]` are probabilities."""
        share = self.kinds.share(alpha)
        slots = self.kinds.share(alpha, cut)
        read = None  # [k], how much of each input the mix reads
        if cut is not None:
            read = torch.zeros(x.shape[-1], device=x.device, dtype=cut.dtype)
            for kept, c in zip(self.cuts, cut.detach(), strict=True):
                read[kept] += c
        out = _MixedProduct.apply(x, slots, share.detach(), read, self.down, self.up, self.bank)
        return out  # pyright: ignore[reportReturnType]


class _MixedProduct(torch.autograd.Function):
    """x times the weighted sum of quantised copies; straight-through to the low-rank pairs, exact in x and the weights.

    The dense gradient of the weight is only formed where the shares need it: the pairs' go through the low rank.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, slots: Tensor, share: Tensor, read: Tensor | None, down: Tensor, up: Tensor, bank: Tensor
    ) -> Tensor:
        # one copy has all the weight there is
        mixed = bank[0] if len(bank) == 1 else (slots.to(bank.dtype) @ bank.flatten(1)).view(bank.shape[1:])
        ctx.save_for_backward(x, slots, share, read, down, up, mixed)
        ctx.bank = bank
        return F.linear(x, mixed)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, slots, share, read, down, up, mixed = ctx.saved_tensors
        need_x, need_slots, _, _, need_down, need_up, _ = ctx.needs_input_grad
        (grad,) = grads
        grad_x = grad @ mixed if need_x else None
        rows, answers = x.flatten(0, -2), grad.flatten(0, -2)  # [tokens, k], [tokens, n]
        grad_slots = grad_down = grad_up = None
        if need_slots and len(ctx.bank) > 1:
            dense = answers.T @ rows  # [n, k]
            grad_slots = torch.stack([_dot(copy, dense) for copy in ctx.bank]).to(slots.dtype)
        if need_down or need_up:
            pairs, rank, k = down.shape
            rows, answers = rows.to(down.dtype), answers.to(down.dtype)
            rows = rows if read is None else rows * read
            scale = share.to(down.dtype)[:, None, None]
            inner = rows @ down.flatten(0, 1).T  # [tokens, pairs x rank]
            outer = answers @ up.transpose(0, 1).flatten(1)  # [tokens, pairs x rank]
            grad_up = scale * (answers.T @ inner).view(-1, pairs, rank).transpose(0, 1)
            grad_down = scale * (outer.T @ rows).view(pairs, rank, k)
        return grad_x, grad_slots, None, None, grad_down, grad_up, None


class ActivationMix:
    """Activations at every precision the kernels use, rounded once for all linears that share the input."""

    def __init__(self, precisions: Sequence[Precision], device: torch.device):
        self.kinds = Kinds(precisions, activation_scheme, device)

    def rounded(self, x: Tensor, kind: int, kept: Tensor | None = None) -> Tensor:
        """Q(x), detached. With `kept`, groups are made of those inputs and the others stay as they are."""
        p, x = self.kinds.example[kind], x.detach()
        if activation_scheme(p) is None:
            return x
        if kept is None or p.group is None:
            return fake_quantise_activations(x, p)
        out = x.clone()
        out[..., kept] = fake_quantise_activations(x[..., kept], p)
        return out

    def every(self, x: Tensor, cuts: Cuts = ()) -> list[Tensor]:
        """`rounded` of every kind and every cut, in the order of `Kinds.share`."""
        return [self.rounded(x, kind, kept) for kind in range(len(self.kinds)) for kept in (cuts or [None])]

    def mixed(self, x: Tensor, rounded: Sequence[Tensor], alpha: Tensor, cut: Tensor | None = None) -> Tensor:
        """sum_s a_s Q_s(x) with a straight-through gradient, where a_s adds up the precisions that round alike."""
        if len(self.kinds) == 1 and activation_scheme(self.kinds.example[0]) is None:
            return x
        share = self.kinds.share(alpha, cut)
        return _MixedActivations.apply(x, share, *rounded)  # pyright: ignore[reportReturnType]


class _MixedActivations(torch.autograd.Function):
    """Weighted sum of rounded activations: identity backwards (arXiv 1308.3432), exact in the weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Tensor, *rounded: Tensor) -> Tensor:
        ctx.save_for_backward(*rounded)
        out = rounded[0] * share[0].to(x.dtype)
        for part, a in zip(rounded[1:], share[1:], strict=True):
            out.addcmul_(part, a.to(x.dtype))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rounded, (grad,) = ctx.saved_tensors, grads
        grad_share = torch.stack([_dot(part, grad) for part in rounded]) if ctx.needs_input_grad[1] else None
        return grad, grad_share, *(None for _ in rounded)


def straight_through(x: Tensor, quantised: Tensor) -> Tensor:
    """`quantised` forwards, identity backwards (arXiv 1308.3432)."""
    return x + (quantised.to(x.dtype) - x).detach()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product in fp32 whatever the dtypes."""
    if a.dtype == torch.float32:
        return a.flatten() @ b.flatten()
    return torch.stack([(x.float() * y.float()).sum() for x, y in zip(a.split(1024), b.split(1024), strict=True)]).sum()


def _grid(weight: Tensor, p: Precision, energy: Tensor | None, kept: Tensor | slice) -> Grid | None:
    return None if p.is_float else clipped_grid(weight[:, kept], p, None if energy is None else energy[kept])
