"""Other ways to mix the width choices of one weight: nested loops over slices, and stacked masks.

All return sum_ij a_ij G_ij * W, `[n, k]`, where G_ij is 1 on the outputs of choice i and the inputs of choice j, and
are differentiable in a; the weight is frozen in all of them, as in a supernet with low-rank pairs.

    loops         as published (TangleNAS's MixedLinearV2 and what followed it): the slice of every pair of choices is
                  padded to the whole shape, weighted and added, under autograd
    stacked       the binary masks lie in one [pairs, n, k] tensor, of a byte each so that it fits; weighted and summed
                  under autograd, then multiplied with the weight
    tight_loops   the fastest that we could write without factorising: every slice is added in place where it lies,
                  nothing is padded or remembered, and backwards is one inner product a slice
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hwfit.latency_models.choices import Choices
from hwfit.search.masks import head_size_indicator, prefix_indicator
from hwfit.space import Space, Width

TEMPORARY = 1 << 28
"""Elements of the weighted stack at a time: the whole would not fit beside the stack."""

Place = tuple[slice, ...]
"""A choice as a slice of a width's own dimensions (`dims`)."""
View = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Axis:
    """The choices of one width: each a slice of `dims`, as which the width's channels are laid out."""

    dims: tuple[int, ...]
    places: tuple[Place, ...]
    indicator: Tensor  # [choices, channels]

    @classmethod
    def of(cls, space: Space, width: Width) -> Axis:
        s = space.shape
        match width:
            case "hidden" | "mlp":
                full, widths = getattr(s, width), getattr(space, width)
                return cls((full,), tuple((slice(w),) for w in widths), prefix_indicator(widths, full))
            case "q" | "kv":
                count, kept = (s.heads, space.heads) if width == "q" else (s.kv_heads, _kv(space))
                d = s.head_size  # a head is [2, d / 2]: the two halves of its rotary pairs
                steps = [d // size for size in space.head_size]
                places = tuple((slice(h), slice(None), slice(None, None, step)) for h in kept for step in steps)
                heads, sizes = prefix_indicator(kept, count), head_size_indicator(space.head_size, d)
                both = torch.stack([torch.kron(h, size) for h in heads for size in sizes])
                return cls((count, 2, d // 2), places, both)
        raise ValueError(width)

    def probabilities(self, choices: Choices, width: Width) -> Tensor:
        if width in ("q", "kv"):
            return torch.outer(choices.heads, choices.head_size).flatten()
        return getattr(choices, width)


def _kv(space: Space) -> tuple[int, ...]:
    return tuple(map(space.kv_heads, space.heads))


@dataclass(frozen=True)
class Pairs:
    """Every (output choice, input choice) of one weight."""

    rows: Axis
    columns: Axis

    def __len__(self) -> int:
        return len(self.rows.places) * len(self.columns.places)

    def views(self) -> list[View]:
        """Cuts each pair's slice out of a `[n, k]` tensor, without a copy."""
        dims = (*self.rows.dims, *self.columns.dims)
        return [lambda w, place=(*r, *c): w.view(dims)[place] for r in self.rows.places for c in self.columns.places]

    def stack(self, rows: slice, device: torch.device) -> Tensor:
        """`[pairs, rows, k]` bool: the masks of some of the rows."""
        r, c = (axis.indicator.bool().to(device) for axis in (self.rows, self.columns))
        return (r[:, None, rows, None] & c[None, :, None, :]).flatten(0, 1)


Mixer = Callable[[Tensor], Tensor]
"""`alpha[pairs]` -> the mixed weight, or those of its rows that are run."""
Rival = Callable[[Pairs, Tensor, int], tuple[Mixer, slice]]
"""(pairs, weight, parts) -> how one of so many parts is mixed, prepared, and the rows that come out."""


def _looped(pairs: Pairs, weight: Tensor, parts: int) -> tuple[Mixer, slice]:
    chosen = slice(parts // 2, None, parts)
    views = pairs.views()[chosen]
    return lambda alpha: loops(weight, alpha[chosen], views), slice(None)


def _tight(pairs: Pairs, weight: Tensor, parts: int) -> tuple[Mixer, slice]:
    views = pairs.views()
    return lambda alpha: tight_loops(weight, alpha, views), slice(None)


def _stacked(pairs: Pairs, weight: Tensor, parts: int) -> tuple[Mixer, slice]:
    rows = slice(0, len(weight) // parts)
    stack = pairs.stack(rows, weight.device)
    return lambda alpha: stacked(weight[rows], alpha, stack), rows


def loops(weight: Tensor, alpha: Tensor, views: Sequence[View]) -> Tensor:
    mixed = torch.zeros_like(weight)
    for a, view in zip(alpha.unbind(), views, strict=True):
        padded = torch.zeros_like(weight)
        view(padded).copy_(view(weight))
        mixed += a * padded
    return mixed


def tight_loops(weight: Tensor, alpha: Tensor, views: Sequence[View]) -> Tensor:
    return _TightLoops.apply(weight, alpha, views)  # pyright: ignore[reportReturnType]


def stacked(weight: Tensor, alpha: Tensor, stack: Tensor) -> Tensor:
    at_once = max(1, TEMPORARY // (len(stack) * weight.shape[1]))
    return torch.cat([(alpha[:, None, None] * part).sum(0) for part in stack.split(at_once, 1)]) * weight


class _TightLoops(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, alpha: Tensor, views: Sequence[View]) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.views = views
        mixed = torch.zeros_like(weight)
        for a, view in zip(alpha.tolist(), views, strict=True):
            view(mixed).add_(view(weight), alpha=a)
        return mixed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        (weight,) = ctx.saved_tensors
        return None, torch.stack([(view(weight) * view(grads[0])).sum() for view in ctx.views]), None


SAMPLED = ("loops", "stacked")
"""Whose time is proportional to what is run of them, every slice costing about the same."""
RIVALS: dict[str, Rival] = {
    "loops": _looped,
    "stacked": _stacked,
    "tight_loops": _tight,
}
