"""Choices: a distribution over the subnets of a space, one simplex per axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from hwfit.errors import HwfitError
from hwfit.space import Space
from hwfit.subnet import LINEARS, Subnet


@dataclass(frozen=True)
class Choices:
    """A distribution over the subnets of a `Space`: one simplex per axis, each over the axis's choices in order.

    `precision[b, l, p]` belongs to block `b` of the *original* model (kept or not) and linear `LINEARS[l]`; with one
    `l` all linears of a block are at one precision (`by_block`, the paper's space). Every tensor may have the same
    leading batch dimensions.
    """

    hidden: Tensor  # [..., hidden choices]
    heads: Tensor  # [..., heads choices]
    head_size: Tensor  # [..., head size choices]
    mlp: Tensor  # [..., MLP choices]
    depth: Tensor  # [..., depth choices]
    precision: Tensor  # [..., blocks, 7 linears or 1, precisions]
    lm_head: Tensor  # [..., precisions]

    @property
    def by_block(self) -> bool:
        """Whether the linears of a block share one precision."""
        return self.precision.shape[-2] == 1

    def map(self, f: Callable[[Tensor], Tensor]) -> Choices:
        """The same with `f` applied to every tensor."""
        return Choices(*(f(t) for t in self.tensors()))

    def tensors(self) -> Iterator[Tensor]:
        return (getattr(self, field.name) for field in fields(self))

    @staticmethod
    def stack(many: Sequence[Choices]) -> Choices:
        """One batched `Choices` from several: `[batch, ...]`."""
        return Choices(*(torch.stack(ts) for ts in zip(*(c.tensors() for c in many), strict=True)))


def uniform(space: Space, dtype: torch.dtype = torch.float64) -> Choices:
    """Every choice of every axis equally likely."""
    p = len(space.precisions)
    axes = [torch.full((len(axis),), 1 / len(axis), dtype=dtype) for axis in _axes(space)]
    rows = torch.full((space.shape.blocks, len(LINEARS), p), 1 / p, dtype=dtype)
    return Choices(*[*axes, rows, torch.full((p,), 1 / p, dtype=dtype)])


def one_hot(space: Space, subnet: Subnet, block_order: Sequence[int], dtype: torch.dtype = torch.float64) -> Choices:
    """The distribution that is certain of `subnet`; a dropped block's precisions are the first choice (they cost 0).

    Raises `HwfitError` for a subnet outside the space, or whose blocks are not the `len(blocks)` most important of
    `block_order` (most important first), or whose blocks differ in MLP width.
    """
    order = checked_order(space, block_order)
    values = {
        "hidden": subnet.hidden,
        "heads": subnet.heads,
        "head_size": subnet.head_size,
        "mlp": subnet.mlp[0],
        "depth": len(subnet.blocks),
    }
    problems = [
        f"subnet: {axis}={value} is not in the space; allowed: {getattr(space, axis)}"
        for axis, value in values.items()
        if value not in getattr(space, axis)
    ]
    if len(set(subnet.mlp)) > 1:
        problems.append(f"subnet: blocks of different MLP widths {sorted(set(subnet.mlp))} are not in the space")
    if set(subnet.blocks) != set(order[: len(subnet.blocks)]):
        best = sorted(order[: len(subnet.blocks)])
        problems.append(f"subnet: blocks {subnet.blocks} are not the {len(best)} most important ones, {best}")
    used = {subnet.lm_head, *(p for row in subnet.precision for p in row)}
    foreign = sorted(p.name for p in used - set(space.precisions))
    if foreign:
        allowed = ", ".join(p.name for p in space.precisions)
        problems.append(f"subnet: precisions {', '.join(foreign)} are not in the space; allowed: {allowed}")
    if subnet.embed != space.embed:
        problems.append(f"subnet: embed={subnet.embed} differs from the space's {space.embed}")
    if problems:
        raise HwfitError(problems)
    hot = [
        _certain(len(axis), axis.index(values[name]), dtype) for name, axis in zip(values, _axes(space), strict=True)
    ]
    index = torch.zeros(space.shape.blocks, len(LINEARS), dtype=torch.long)
    for block, row in zip(subnet.blocks, subnet.precision, strict=True):
        index[block] = torch.tensor([space.precisions.index(p) for p in row])
    rows = nn.functional.one_hot(index, len(space.precisions)).to(dtype)
    lm_head = _certain(len(space.precisions), space.precisions.index(subnet.lm_head), dtype)
    return Choices(*[*hot, rows, lm_head])


def checked_order(space: Space, block_order: Sequence[int]) -> list[int]:
    order = list(block_order)
    if sorted(order) != list(range(space.shape.blocks)):
        raise HwfitError(f"block_order={order} must list each of the blocks 0…{space.shape.blocks - 1} once")
    return order


def _axes(space: Space) -> tuple[tuple[int, ...], ...]:
    return space.hidden, space.heads, space.head_size, space.mlp, space.depth


def _certain(size: int, index: int, dtype: torch.dtype) -> Tensor:
    return nn.functional.one_hot(torch.tensor(index), size).to(dtype)
