"""Picks as strategies handle them: equal where subnets are, whole models at one precision, as JSON, damage added up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from hwfit.search.discretise import WIDTHS, Picked, Problem, with_precision
from hwfit.search.sensitivity import Damage
from hwfit.search.strategies.genome import Genome
from hwfit.space import Space
from hwfit.subnet import LINEARS


def canonical(picked: Picked, space: Space, block_order: Sequence[int]) -> Picked:
    """The same subnet with the first choices in blocks that are not kept, so that equal subnets are equal picks."""
    kept = set(block_order[: space.depth[picked.depth]])
    none = (space.options(LINEARS[0])[0],) * len(LINEARS)
    mlp = picked.mlp
    if isinstance(mlp, tuple):
        mlp = tuple(width if b in kept else 0 for b, width in enumerate(mlp))
    rows = tuple(row if b in kept else none for b, row in enumerate(picked.precision))
    return replace(picked, mlp=mlp, precision=rows)


def to_json(picked: Picked) -> dict[str, Any]:
    widths = {axis: getattr(picked, axis) for axis in WIDTHS}
    return widths | {"precision": [list(row) for row in picked.precision], "lm_head": picked.lm_head}


def from_json(raw: Any, space: Space) -> Picked:
    """Raises `ValueError`, `TypeError`, `KeyError` or `AttributeError` for anything but a pick of the space."""
    widths: dict[str, Any] = {axis: raw[axis] for axis in WIDTHS}
    mlp = widths["mlp"] = raw["mlp"] if isinstance(raw["mlp"], int) else tuple(raw["mlp"])
    picked = Picked(**widths, precision=tuple(tuple(row) for row in raw["precision"]), lm_head=raw["lm_head"])
    numbers = [*widths.values(), *(mlp if isinstance(mlp, tuple) else ()), *(p for r in picked.precision for p in r)]
    genome = Genome(space)
    if any(type(n) is not int for n in numbers if n is not mlp) or genome.decode(genome.encode(picked)) != picked:
        raise ValueError("not a pick of this space")
    return picked


def uniform_precisions(space: Space) -> list[int]:
    """The precisions that a whole model is quantised to: integers of 4 bits or more, as indices of the space's."""
    there = [(i, space.precisions[i]) for i in space.options(LINEARS[0])]
    return [i for i, p in there if not p.is_float and p.weight_bits >= 4]


def most_precise(space: Space) -> int:
    return max(space.options(LINEARS[0]), key=lambda i: space.precisions[i].weight_bits)


def whole(space: Space, precision: int) -> Picked:
    """The original architecture at one precision, an index of the space's; the LM head at its first one where it may
    not take that."""
    genome = Genome(space)
    return with_precision(genome.decode((0,) * len(genome.sizes)), precision, space)


def harm(picked: Picked, problem: Problem) -> float:
    """Additive damage of a pick, nats a token."""
    rank = torch.empty(len(problem.block_order), dtype=torch.long)
    rank[list(problem.block_order)] = torch.arange(len(rank))
    return Damage(problem.damage, rank, problem.space.depth).of(picked)
