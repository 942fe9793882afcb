"""Repair against brute force: the result meets the budget and nothing that was affordable is left unspent."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from search_llama import SHAPE, tiny_space

from hwfit.errors import HwfitError
from hwfit.latency_models.differentiable import Choices
from hwfit.search.discretise import Picked, Problem, most_likely, repair, with_precision
from hwfit.subnet import LINEARS, Subnet

ORDER = (1, 0, 2)


def bits(subnet: Subnet) -> dict[str, float]:
    return {"memory": float(sum(n * k * p.weight_bits for n, k, p in subnet.linears.values()))}


def random_choices(space, seed: int) -> Choices:
    g = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=g).mul(2).softmax(-1)

    p = len(space.precisions)
    widths = {a: draw(len(getattr(space, a))) for a in ("hidden", "heads", "head_size", "mlp", "depth")}
    return Choices(precision=draw(SHAPE.blocks, len(LINEARS), p), lm_head=draw(p), **widths)


def damage(choices: Choices) -> Choices:
    """Damage that makes the most likely choice on every axis the least harmful one."""
    return choices.map(lambda p: -p.log())


@pytest.mark.parametrize("seed", range(6))
def test_repair_meets_the_budget_and_leaves_no_affordable_better_choice(seed: int):
    space = tiny_space()
    choices = random_choices(space, seed)
    start = most_likely(choices)
    limit = bits(start.subnet(space, ORDER))["memory"] * random.Random(seed).choice([0.5, 0.8, 1.2])
    got = repair(start, Problem(damage(choices), space, ORDER, bits, {"memory": limit}))
    assert bits(got.subnet(space, ORDER))["memory"] <= limit
    table = choices.precision.log()
    for block in ORDER[: space.depth[got.depth]]:
        for i in range(len(LINEARS)):
            here = got.precision[block][i]
            for to in range(len(space.precisions)):
                if table[block, i, to] > table[block, i, here] + 1e-5:
                    row = (*got.precision[block][:i], to, *got.precision[block][i + 1 :])
                    rows = (*got.precision[:block], row, *got.precision[block + 1 :])
                    assert bits(replace(got, precision=rows).subnet(space, ORDER))["memory"] > limit


def test_budget_already_met_keeps_the_most_likely_subnet():
    space = tiny_space()
    choices = random_choices(space, 3)
    start = most_likely(choices)
    assert repair(start, Problem(damage(choices), space, ORDER, bits, {"memory": 1e12})) == start


def test_a_harmful_move_is_not_made_where_a_harmless_one_will_do():
    """Halving the head size would meet the budget in one move; it is ruinous, and many small roundings are free."""
    space = tiny_space()
    choices = random_choices(space, 3)
    harm = choices.map(torch.zeros_like)
    harm.head_size[1] = 5.0
    harm.heads[1] = harm.hidden[1] = 3.0
    harm.mlp[1:] = 1.0
    harm.depth[1:] = 1.0
    harm.precision[..., 2] = 1e-3
    start = with_precision(Picked(0, 0, 0, 0, 0, ((0,) * len(LINEARS),) * SHAPE.blocks, 0), 0)
    limit = 0.3 * bits(start.subnet(space, ORDER))["memory"]
    got = repair(start, Problem(harm, space, ORDER, bits, {"memory": limit}))
    assert (got.hidden, got.heads, got.head_size, got.mlp, got.depth) == (0, 0, 0, 0, 0)
    assert bits(got.subnet(space, ORDER))["memory"] <= limit


def test_impossible_budget_is_refused():
    space = tiny_space()
    choices = random_choices(space, 0)
    with pytest.raises(HwfitError, match="no smaller subnet"):
        repair(most_likely(choices), Problem(damage(choices), space, ORDER, bits, {"memory": 1.0}))
