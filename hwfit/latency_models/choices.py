"""Choices: a distribution over the subnets of a space, one simplex per axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from hwfit.errors import HwfitError, raise_all
from hwfit.space import AXES, Space
from hwfit.subnet import LINEARS, Subnet


@dataclass(frozen=True)
class Choices:
    """A distribution over the subnets of a `Space`: one simplex per axis, each over the axis's choices in order.

    `precision[b, l, p]` belongs to block `b` of the *original* model (kept or not) and linear `LINEARS[l]`; with one
    `l` all linears of a block are at one precision (`by_block`, the paper's space). `mlp` may have a row a block
    (`mlp_by_block`). Every tensor may have the same leading batch dimensions.
    """

    hidden: Tensor  # [..., hidden choices]
    heads: Tensor  # [..., heads choices]
    head_size: Tensor  # [..., head size choices]
    mlp: Tensor  # [..., MLP choices] or [..., blocks, MLP choices]
    depth: Tensor  # [..., depth choices]
    precision: Tensor  # [..., blocks, 7 linears or 1, precisions]
    lm_head: Tensor  # [..., precisions]

    @property
    def by_block(self) -> bool:
        """Whether the linears of a block share one precision."""
        return self.precision.shape[-2] == 1

    @property
    def mlp_by_block(self) -> bool:
        """Whether each block has an MLP width of its own."""
        return self.mlp.dim() > self.lm_head.dim()

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
    widths = {
        axis: torch.full((len(getattr(space, axis)),), 1 / len(getattr(space, axis)), dtype=dtype) for axis in AXES
    }
    if space.mlp_per_block:
        widths["mlp"] = widths["mlp"].expand(space.shape.blocks, -1)
    row, lm_head = (offered(space, linear).to(dtype) for linear in (LINEARS[0], "lm_head"))
    rows = (row / row.sum()).repeat(space.shape.blocks, len(LINEARS), 1)
    return Choices(precision=rows, lm_head=lm_head / lm_head.sum(), **widths)


def offered(space: Space, linear: str) -> Tensor:
    """`[precisions]`: whether a linear (one of `LINEARS`, or `lm_head`) may take it."""
    out = torch.zeros(len(space.precisions), dtype=torch.bool)
    out[space.options(linear)] = True
    return out


def one_hot(space: Space, subnet: Subnet, block_order: Sequence[int], dtype: torch.dtype = torch.float64) -> Choices:
    """The distribution that is certain of `subnet`; a dropped block's precisions and MLP width are the first choices
    (they cost 0).

    Raises `HwfitError` for a subnet outside the space, or whose blocks are not the `len(blocks)` most important of
    `block_order` (most important first).
    """
    order = checked_order(space, block_order)
    problems = outside(space, subnet)
    if set(subnet.blocks) != set(order[: len(subnet.blocks)]):
        best = sorted(order[: len(subnet.blocks)])
        problems.append(f"subnet: blocks {subnet.blocks} are not the {len(best)} most important ones, {best}")
    raise_all(problems)
    values = {axis: getattr(subnet, axis) for axis in ("hidden", "heads", "head_size")}
    values |= {"mlp": subnet.mlp[0], "depth": len(subnet.blocks)}
    hot = {axis: _certain(len(getattr(space, axis)), getattr(space, axis).index(values[axis]), dtype) for axis in AXES}
    if space.mlp_per_block:
        widths = torch.zeros(space.shape.blocks, dtype=torch.long)
        for block, width in zip(subnet.blocks, subnet.mlp, strict=True):
            widths[block] = space.mlp.index(width)
        hot["mlp"] = nn.functional.one_hot(widths, len(space.mlp)).to(dtype)
    index = torch.full((space.shape.blocks, len(LINEARS)), space.options(LINEARS[0])[0])
    for block, row in zip(subnet.blocks, subnet.precision, strict=True):
        index[block] = torch.tensor([space.precisions.index(p) for p in row])
    rows = nn.functional.one_hot(index, len(space.precisions)).to(dtype)
    lm_head = _certain(len(space.precisions), space.precisions.index(subnet.lm_head), dtype)
    return Choices(precision=rows, lm_head=lm_head, **hot)


def outside(space: Space, subnet: Subnet) -> list[str]:
    """What of `subnet` is not a choice of `space`, whichever blocks are kept."""
    values = {axis: [getattr(subnet, axis)] for axis in ("hidden", "heads", "head_size")}
    values |= {"mlp": sorted(set(subnet.mlp)), "depth": [len(subnet.blocks)]}
    problems = [
        f"subnet: {axis}={value} is not in the space; allowed: {getattr(space, axis)}"
        for axis in AXES
        for value in values[axis]
        if value not in getattr(space, axis)
    ]
    if len(set(subnet.mlp)) > 1 and not space.mlp_per_block:
        problems.append(f"subnet: blocks of different MLP widths {sorted(set(subnet.mlp))} are not in the space")
    if space.precision_per == "block" and any(len(set(row)) > 1 for row in subnet.precision):
        problems.append("subnet: blocks with linears of different precisions are not in the space")
    used = {"linears": {p for row in subnet.precision for p in row}, "lm_head": {subnet.lm_head}}
    for part, there in used.items():
        allowed = [p.name for p in getattr(space, part) or space.precisions]
        if foreign := sorted({p.name for p in there} - set(allowed)):
            told = f"subnet: precisions {', '.join(foreign)} of the {part} are not in the space"
            problems.append(f"{told}; allowed: {', '.join(allowed)}")
    if subnet.embed != space.embed:
        problems.append(f"subnet: embed={subnet.embed} differs from the space's {space.embed}")
    return problems


def checked_order(space: Space, block_order: Sequence[int]) -> list[int]:
    order = list(block_order)
    if sorted(order) != list(range(space.shape.blocks)):
        raise HwfitError(f"block_order={order} must list each of the blocks 0…{space.shape.blocks - 1} once")
    return order


def _certain(size: int, index: int, dtype: torch.dtype) -> Tensor:
    return nn.functional.one_hot(torch.tensor(index), size).to(dtype)
