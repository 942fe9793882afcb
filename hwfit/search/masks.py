"""Factorised width masks: the mix of all prefix subnets of a weight is diag(r) W diag(c), never materialised.

With independent width choices the paper's stack of binary masks, sum_ij a_i a_j G_ij (arXiv 2606.04063), is the outer
product of r[m] = sum_j p_out(j) 1[m < M_j] and c[n] = sum_i p_in(i) 1[n < N_i].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from hwfit.space import Space, Width

LEAST = 1e-10
"""In place of a mask's 0, so that what was multiplied can be told from the product; nothing that fp32 can see."""


@dataclass(frozen=True)
class Masks:
    """Soft masks of the widths, each `[full width]`: 1 where every choice keeps the channel.

    None where there is no choice. `heads` is `q` without the choice of head size. `mlp` is `[blocks, full width]` where
    each block has an MLP width of its own.
    """

    hidden: Tensor | None
    q: Tensor | None
    kv: Tensor | None
    mlp: Tensor | None
    heads: Tensor | None
    vocab: None = None

    def of(self, width: Width, block: int) -> Tensor | None:
        """The mask `[full width]` of one width in one block; None for what is never cut."""
        mask: Tensor | None = getattr(self, width)
        return mask[block] if mask is not None and mask.dim() > 1 else mask

    def map(self, f: Callable[[Tensor], Tensor]) -> Masks:
        """The same with `f` applied to every mask."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: f(t) for name, t in given.items() if t is not None})


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """`x[..., width] * mask[width]`, remembering only the product, which whoever reads it remembers as well."""
    return x if mask is None else _Masked.apply(x, mask)  # pyright: ignore[reportReturnType]


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:
        factor = mask.clamp_min(LEAST)
        out = x * factor
        ctx.save_for_backward(out, factor)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        out, factor = ctx.saved_tensors
        (grad,) = grads
        grad_mask = None
        if ctx.needs_input_grad[1]:  # sum of grad * x = grad * out / factor
            total = (grad * out).flatten(0, -2).sum(0, dtype=torch.float32)
            grad_mask = (total / factor.float()).to(factor.dtype)
        return grad * factor if ctx.needs_input_grad[0] else None, grad_mask


@cache
def prefix_indicator(widths: tuple[int, ...], full: int) -> Tensor:
    """`[choices, full]`: row j is 1 for the first `widths[j]` channels."""
    return (torch.arange(full) < torch.tensor(widths)[:, None]).float()


@cache
def head_size_indicator(sizes: tuple[int, ...], full: int) -> Tensor:
    """`[choices, full]`: which channels of a head each size keeps.

    A head of size d keeps the rotary pairs (i, i + full/2) with i a multiple of full/d: their frequencies are exactly
    those of a plain Llama with head size d.
    """
    pair = torch.arange(full) % (full // 2)
    return torch.stack([(pair % (full // size) == 0).float() for size in sizes])


def soft_masks(space: Space, hidden: Tensor, heads: Tensor, head_size: Tensor, mlp: Tensor) -> Masks:
    """Masks from one probability vector per axis (`mlp` may have a row a block); heads x head size is a Kronecker
    product."""
    s = space.shape
    kept = _per_channel(head_size, head_size_indicator(space.head_size, s.head_size))  # [head size]
    queries = _per_channel(heads, prefix_indicator(space.heads, s.heads))  # [heads]
    kv = _per_channel(heads, prefix_indicator(tuple(map(space.kv_heads, space.heads)), s.kv_heads))
    sized = space.head_size != (s.head_size,)
    counted = space.heads != (s.heads,)
    return Masks(
        hidden=_chosen(hidden, space.hidden, s.hidden),
        q=torch.kron(queries, kept) if sized or counted else None,
        kv=torch.kron(kv, kept) if sized or counted else None,
        mlp=_chosen(mlp, space.mlp, s.mlp),
        heads=queries.repeat_interleave(s.head_size) if counted else None,
    )


def head_size_cuts(space: Space) -> list[Tensor]:
    """For each head size, which of the `q` channels it keeps: no prefix, so groups of inputs do not stay together."""
    heads = space.shape.heads
    rows = head_size_indicator(space.head_size, space.shape.head_size)
    return [row.repeat(heads).nonzero().flatten() for row in rows]


def keep_gates(depth: Tensor, depths: Sequence[int], blocks: int) -> Tensor:
    """`[blocks]` by importance rank: P(depth > rank), the weight of the block of that rank."""
    return _per_channel(depth, prefix_indicator(tuple(depths), blocks))


def _chosen(p: Tensor, widths: tuple[int, ...], full: int) -> Tensor | None:
    return None if widths == (full,) else _per_channel(p, prefix_indicator(widths, full))


def _per_channel(p: Tensor, indicator: Tensor) -> Tensor:
    return p @ indicator.to(p.device, p.dtype)
