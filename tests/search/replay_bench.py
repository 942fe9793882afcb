"""A replayed problem small enough for brute force: one or three blocks, made-up prices, damages that compound."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from search_llama import SHAPE, tiny_space

from hwfit.kernels.op import Op
from hwfit.latency_models.choices import Choices
from hwfit.latency_models.estimate import Estimate
from hwfit.latency_models.whole import WholeModel
from hwfit.search.costs import ExpectedCosts, predicted_cost
from hwfit.search.discretise import WIDTHS
from hwfit.search.optimise import SearchSettings
from hwfit.search.sensitivity import Damage
from hwfit.search.strategies.replay import Replay, compounding
from hwfit.space import Space
from hwfit.subnet import LINEARS, Subnet
from hwfit.workload import Workload


class Prices:
    """Fewer bits are faster, and 8 bits the fastest with many rows: decode and prefill disagree."""

    device, precisions = "cpu-none", set()

    def price(self, op: Op) -> float:
        few, many = {"w32": (32, 32), "w8a8": (9, 6), "w4a8": (5, 11)}.get(op.precision, (1, 1))
        return 1e-9 * ((few if op.m == 1 else many) * max(op.n, 1) * max(op.k, 1) + 50)

    def predict(self, op: Op) -> Estimate:
        return Estimate(self.price(op), 0.0, 1.0, "measured")


def one_block() -> Space:
    """2,304 subnets: every axis but the head size and the depth, two precisions."""
    space = tiny_space("w32", "w8a8", "w4a8")
    return replace(
        space,
        shape=replace(SHAPE, blocks=1),
        depth=(1,),
        head_size=(16,),
        mlp=(96, 32),
        precisions=space.precisions[1:],
    )


def by_block() -> Space:
    """Each block has one precision and an MLP width of its own; the LM head keeps 8 bits."""
    space = tiny_space("w32", "w8a8", "w4a8")
    return replace(space, precision_per="block", mlp_per_block=True, lm_head=space.precisions[1:2])


def random_damage(space: Space, seed: int) -> Choices:
    """Rising along every axis, 0 for its first choice."""
    g = torch.Generator().manual_seed(seed)

    def rising(*size: int) -> torch.Tensor:
        t = torch.rand(*size, generator=g, dtype=torch.float64).cumsum(-1)
        return t - t[..., :1]

    p = len(space.precisions)
    widths = {axis: rising(len(getattr(space, axis))) for axis in WIDTHS}
    if space.mlp_per_block:
        widths["mlp"] = 0.3 * rising(space.shape.blocks, len(space.mlp))
    precision = 0.3 * rising(space.shape.blocks, len(LINEARS), p)
    return Choices(precision=precision, lm_head=0.3 * rising(p), **widths)


def bench(space: Space, seed: int = 0, strength: float = 0.3, steps: int = 4) -> Replay:
    blocks = space.shape.blocks
    order = tuple(torch.randperm(blocks, generator=torch.Generator().manual_seed(seed)).tolist())
    rank = torch.tensor([order.index(b) for b in range(blocks)])
    latency, workload = WholeModel(Prices()), Workload()
    return Replay(
        space,
        order,
        Damage(random_damage(space, seed), rank, space.depth),
        partial(predicted_cost, latency, workload),
        ExpectedCosts(space, order, latency, workload),
        compounding(blocks, seed, strength),
        settings=SearchSettings(steps=steps),
    )


@dataclass
class ReplaySearcher:
    """Stands for a `Searcher`: a replay's losses, costs and descents."""

    of: Replay
    folder: Path
    settings: SearchSettings = SearchSettings()
    progress: bool = False

    def __post_init__(self):
        self.study = SimpleNamespace(space=self.of.space)
        self.order, self.problem, self.loss_of = self.of.block_order, self.of.problem, self.of.loss

    def cost(self, subnet: Subnet) -> dict[str, float]:
        return self.of.cost(subnet)

    def descend(self, name, architecture, limits, key):
        return self.of._descended(limits, architecture), []


def twelve_blocks() -> Replay:
    """Enough to choose that there is a subnet within a per cent of any budget."""
    return bench(replace(tiny_space("w32", "w8a8", "w4a8"), shape=replace(SHAPE, blocks=12), depth=(12, 10, 8)))
