"""Made-up prices: any additive cost of the ops, drawn from a seed; and small spaces and damages to go with them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import torch
from search_llama import SHAPE, tiny_space

from hwfit.kernels.op import Op
from hwfit.latency_models.choices import Choices
from hwfit.latency_models.estimate import Estimate
from hwfit.latency_models.memory import op_bytes
from hwfit.latency_models.overhead import Overhead, Terms
from hwfit.latency_models.whole import WholeModel
from hwfit.search.discretise import WIDTHS, Picked
from hwfit.space import Space
from hwfit.subnet import LINEARS

AXES = (*WIDTHS, "lm_head")


class Bits:
    """Every op costs its weight bits."""

    device, precisions = "cpu-none", set()

    def price(self, op: Op) -> float:
        bits = {"w32": 32, "w8a8": 8, "w4a8": 4, "w8a16": 8, "w4a16": 4}.get(op.precision, 1)
        return 1e-9 * (bits * max(op.n, 1) * max(op.k, 1) + 1)

    def predict(self, op: Op) -> Estimate:
        return Estimate(self.price(op), 0.0, 1.0, "measured")


@dataclass(frozen=True)
class MadeUp:
    """Seconds or joules of an op that depend on all of it and on the seed alone."""

    seed: int
    device: str = "made-up"
    precisions: frozenset[str] = frozenset()

    def price(self, op: Op) -> float:
        return _price(self.seed, op)

    def predict(self, op: Op) -> Estimate:
        value = self.price(op)
        return Estimate(value, value, value, "measured")


@cache
def _price(seed: int, op: Op) -> float:
    return random.Random(repr((seed, op))).uniform(0.1, 1.0) * 1e-3


def made_up_device(seed: int) -> WholeModel:
    overhead = Overhead(Terms(block=1e-4, constant=2e-4, scale=1.1), Terms(scale=0.9), "made-up")
    return WholeModel(MadeUp(seed), overhead, MadeUp(seed + 1))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Reading(MadeUp):
    """Seconds that grow with the bytes an op reads, so that less is never slower."""

    def price(self, op: Op) -> float:
        return 1e-9 * (1 + op_bytes(op) + op.m * op.k)


def small_space(*precisions: str) -> Space:
    """One block, one or two choices of every width: few enough subnets to list them all."""
    space = tiny_space(*(precisions or ("w32", "w4a8g32")))
    return replace(space, shape=replace(SHAPE, blocks=1), depth=(1,), head_size=(16,), mlp=(96, 32))


def small_spaces() -> list[Space]:
    """Small ones of every granularity; the last two offer the LM head one precision only."""
    space = small_space()
    own = replace(space, mlp_per_block=True, hidden=(64,), head_size=(16, 8), lm_head=space.precisions[:1])
    two = replace(own, shape=replace(SHAPE, blocks=2), depth=(2, 1), precision_per="block", hidden=(64, 32))
    return [space, replace(space, precision_per="block"), own, two]


def every_pick(space: Space) -> list[Picked]:
    """All picks of a space of few blocks."""
    linear, head, blocks = space.options(LINEARS[0]), space.options("lm_head"), space.shape.blocks
    sizes = [range(1 if axis == "mlp" and space.mlp_per_block else len(getattr(space, axis))) for axis in WIDTHS]
    rows = [(o,) * 7 for o in linear] if space.precision_per == "block" else list(product(linear, repeat=len(LINEARS)))
    mlps = list(product(range(len(space.mlp)), repeat=blocks)) if space.mlp_per_block else [None]
    return [
        Picked(hidden, heads, head_size, mlp if own is None else own, depth, precision, last)
        for hidden, heads, head_size, mlp, depth in product(*sizes)
        for own in mlps
        for precision in product(rows, repeat=blocks)
        for last in head
    ]


def random_damage(space: Space, seed: int) -> Choices:
    """Nats that choices cost, the first on every axis nothing."""
    g = torch.Generator().manual_seed(seed)

    def harm(*size: int) -> torch.Tensor:
        t = torch.rand(*size, generator=g)
        t[..., 0] = 0.0
        return t

    p = len(space.precisions)
    widths = {axis: harm(len(getattr(space, axis))) for axis in WIDTHS}
    if space.mlp_per_block:
        widths["mlp"] = harm(space.shape.blocks, len(space.mlp))
    return Choices(precision=harm(space.shape.blocks, len(LINEARS), p), lm_head=harm(p), **widths)


def total_damage(damage: Choices, picked: Picked, blocks: Iterable[int]) -> float:
    single = sum(float(getattr(damage, axis)[getattr(picked, axis)]) for axis in AXES if axis != "mlp")
    own = isinstance(picked.mlp, tuple)
    single += sum(float(damage.mlp[b, picked.mlp[b]]) for b in blocks) if own else float(damage.mlp[picked.mlp])
    return single + sum(float(damage.precision[b, i, c]) for b in blocks for i, c in enumerate(picked.precision[b]))
