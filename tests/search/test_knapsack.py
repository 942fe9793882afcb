"""The knapsack against brute force over every precision assignment of a one-block model."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from search_llama import SHAPE, tiny_space

from hwfit.latency_models.differentiable import Choices
from hwfit.search.discretise import Picked, Problem
from hwfit.search.knapsack import best_by_damage, neighbours
from hwfit.subnet import LINEARS

ORDER = (0,)


def bits(subnet) -> dict[str, float]:
    return {"memory": float(sum(n * k * p.weight_bits for n, k, p in subnet.linears.values()))}


@pytest.mark.parametrize("seed", range(5))
def test_total_damage_is_within_one_step_of_the_best_of_all_subnets(seed: int):
    shape = replace(SHAPE, blocks=1)
    space = replace(tiny_space("w32", "w4a8g32"), shape=shape, depth=(1,), head_size=(16,), mlp=(96, 64))
    g = torch.Generator().manual_seed(seed)

    def harm(*size: int) -> torch.Tensor:
        t = torch.rand(*size, generator=g)
        t[..., 0] = 0.0
        return t

    widths = {a: harm(len(getattr(space, a))) for a in ("hidden", "heads", "head_size", "mlp", "depth")}
    damage = Choices(precision=harm(1, len(LINEARS), 2), lm_head=harm(2), **widths)

    def total(p: Picked) -> float:
        single = sum(float(getattr(damage, a)[getattr(p, a)]) for a in (*widths, "lm_head"))
        return single + sum(float(damage.precision[0, i, c]) for i, c in enumerate(p.precision[0]))

    everything = [
        Picked(h, a, 0, m, 0, (row,), head)
        for h, a, m, head in product(range(2), range(2), range(2), range(2))
        for row in product(range(2), repeat=7)
    ]
    full = bits(everything[0].subnet(space, ORDER))["memory"]
    for share in (0.9, 0.5, 0.3):
        limit = {"memory": share * full}
        best = min(total(p) for p in everything if bits(p.subnet(space, ORDER))["memory"] <= limit["memory"])
        got = best_by_damage(Problem(damage, space, ORDER, bits, limit))
        assert got is not None
        assert bits(got.subnet(space, ORDER))["memory"] <= limit["memory"]
        assert total(got) <= best + float(damage.precision.max())
        near = neighbours(got, Problem(damage, space, ORDER, bits, limit))
        assert near == sorted(near, key=total)
        axes = ("hidden", "heads", "mlp")
        for p in near:
            assert bits(p.subnet(space, ORDER))["memory"] <= limit["memory"]
            moved = sorted(getattr(p, a) - getattr(got, a) for a in axes if getattr(p, a) != getattr(got, a))
            assert moved in ([-1], [1], [-1, 1])
            same = [q for q in everything if all(getattr(q, a) == getattr(p, a) for a in axes)]
            best = min(total(q) for q in same if bits(q.subnet(space, ORDER))["memory"] <= limit["memory"])
            assert total(p) <= best + float(damage.precision.max())
    assert best_by_damage(Problem(damage, space, ORDER, bits, {"memory": 1.0})) is None


def test_without_a_limit_that_binds_nothing_is_given_up():
    space = tiny_space()
    damage = Choices(
        hidden=torch.tensor([0.0, 1]), heads=torch.tensor([0.0, 1]), head_size=torch.tensor([0.0, 1]),
        mlp=torch.tensor([0.0, 1, 2]), depth=torch.tensor([0.0, 1, 2]),
        precision=torch.tensor([0.0, 1, 2]).expand(3, 7, 3), lm_head=torch.tensor([0.0, 1, 2]),
    )  # fmt: skip
    got = best_by_damage(Problem(damage, space, (0, 1, 2), bits, {"memory": 1e15}))
    assert got == Picked(0, 0, 0, 0, 0, ((0,) * 7,) * 3, 0)
