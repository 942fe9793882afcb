"""Factorised width masks: the mix of all prefix subnets of a weight is diag(r) W diag(c), never materialised.

With independent width choices the paper's stack of binary masks, sum_ij a_i a_j G_ij (arXiv 2606.04063), is the outer
product of r[m] = sum_j p_out(j) 1[m < M_j] and c[n] = sum_i p_in(i) 1[n < N_i].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from hwfit.space import Space, Width


@dataclass(frozen=True)
class Masks:
    """Soft masks of the four widths, each `[full width]`: 1 where every choice keeps the channel.

    `mlp` is `[blocks, full width]` where each block has an MLP width of its own.
    """

    hidden: Tensor
    q: Tensor
    kv: Tensor
    mlp: Tensor
    vocab: None = None

    def of(self, width: Width, block: int) -> Tensor | None:
        """The mask `[full width]` of one width in one block; None for what is never cut."""
        mask: Tensor | None = getattr(self, width)
        return mask[block] if mask is not None and mask.dim() > 1 else mask


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
    return Masks(
        hidden=_per_channel(hidden, prefix_indicator(space.hidden, s.hidden)),
        q=torch.kron(queries, kept),
        kv=torch.kron(kv, kept),
        mlp=_per_channel(mlp, prefix_indicator(space.mlp, s.mlp)),
    )


def keep_gates(depth: Tensor, depths: Sequence[int], blocks: int) -> Tensor:
    """`[blocks]` by importance rank: P(depth > rank), the weight of the block of that rank."""
    return _per_channel(depth, prefix_indicator(tuple(depths), blocks))


def _per_channel(p: Tensor, indicator: Tensor) -> Tensor:
    return p @ indicator.to(p.dtype)
