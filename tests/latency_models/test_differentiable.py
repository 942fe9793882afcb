"""The expectation against a plain sum over every subnet, and against the plain predictor on certain choices."""

import random
import time
from dataclasses import replace
from itertools import product

import pytest
import torch
from synthetic_table import DEVICE, SMOLLM, WORKLOAD, frame, seconds, space_ops, tiny_space

from hwfit.errors import HwfitError
from hwfit.kernels.op import subnet_ops
from hwfit.latency_models.differentiable import Choices, ExpectedCost, expected_memory, one_hot, uniform
from hwfit.latency_models.estimate import DataMiss
from hwfit.latency_models.lookup import Lookup
from hwfit.latency_models.overhead import Overhead, Terms
from hwfit.latency_models.whole import WholeModel
from hwfit.precision import Precision
from hwfit.space import Space
from hwfit.subnet import LINEARS, Subnet
from hwfit.workload import PHASES

OVERHEAD = Overhead(Terms(3e-6, 4e-5, 1.1, 0.02, 8), Terms(5e-6, 1e-4, 0.9, 0.03, 8), DEVICE)


def random_choices(space: Space, seed: int) -> Choices:
    generator = torch.Generator().manual_seed(seed)
    return uniform(space).map(lambda t: torch.rand(t.shape, generator=generator, dtype=t.dtype).softmax(-1))


def random_subnet(space: Space, order: list[int], rng: random.Random) -> Subnet:
    drawn = space.sample(rng)
    return replace(drawn, blocks=tuple(sorted(order[: len(drawn.blocks)])))


def every_subnet(space: Space, choices: Choices, order: list[int]):
    """(probability, subnet) of everything that can happen, one subnet at a time."""
    axes = [space.hidden, space.heads, space.head_size, space.mlp, space.depth]
    simplexes = [choices.hidden, choices.heads, choices.head_size, choices.mlp, choices.depth, choices.lm_head]
    simplexes += [choices.precision[b, i] for b in range(space.shape.blocks) for i in range(len(LINEARS))]
    support = [[i for i, p in enumerate(s.tolist()) if p > 0] for s in simplexes]
    for picks in product(*support):
        probability = 1.0
        for simplex, i in zip(simplexes, picks, strict=True):
            probability *= float(simplex[i])
        hidden, heads, size, mlp, depth = (axis[i] for axis, i in zip(axes, picks[:5], strict=True))
        blocks = tuple(sorted(order[:depth]))
        rows = [tuple(space.precisions[i] for i in picks[6 + 7 * b : 13 + 7 * b]) for b in blocks]
        lm_head = space.precisions[picks[5]]
        yield probability, space.subnet(hidden, heads, size, mlp, blocks, tuple(rows), lm_head)


def mostly_certain(space: Space, seed: int, loose: int) -> Choices:
    """Random, but only `loose` linears of each block are undecided, so that every subnet can be listed."""
    choices = random_choices(space, seed)
    rows = choices.precision.clone()
    for b in range(space.shape.blocks):
        for i in random.Random(seed + b).sample(range(len(LINEARS)), len(LINEARS) - loose):
            rows[b, i] = torch.eye(rows.shape[-1], dtype=rows.dtype)[(b + i) % rows.shape[-1]]
    return replace(choices, precision=rows)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("blocks", "loose", "order"), [(1, 6, [0]), (2, 2, [1, 0])])
def test_expectation_is_the_sum_over_every_subnet(phase, blocks, loose, order):
    space, at = tiny_space(blocks), WORKLOAD.phase(phase)
    choices = mostly_certain(space, 7, loose)
    terms = OVERHEAD.terms(phase)
    expected = total = memory = 0.0
    for probability, subnet in every_subnet(space, choices, order):
        ops = sum(seconds(op) * count for op, count in subnet_ops(subnet, at).items())
        cache = 2 * 4 * subnet.kv_heads * subnet.head_size * at.context * at.batch * len(subnet.blocks)
        expected += probability * (terms.scale * ops + terms.block * len(subnet.blocks) + terms.constant)
        memory += probability * (subnet.weight_bytes + cache)
        total += probability
    assert total == pytest.approx(1)
    cost = ExpectedCost(space, order, at, seconds, OVERHEAD)
    assert float(cost(choices)) == pytest.approx(expected, rel=1e-12)
    assert float(expected_memory(space, order, at.context, at.batch)(choices)) == pytest.approx(memory, rel=1e-12)


@pytest.mark.parametrize("phase", PHASES)
def test_equals_the_plain_predictor_on_certain_choices(phase):
    space, at = Space.default(SMOLLM), replace(WORKLOAD, batch=2).phase(phase)
    order = random.Random(3).sample(range(30), 30)
    whole = WholeModel(Lookup.fit(frame(space_ops(space, at)), DEVICE), OVERHEAD)
    cost = ExpectedCost(space, order, at, whole.price, OVERHEAD)
    bytes_kept = expected_memory(space, order, 0)
    rng = random.Random(5)
    for _ in range(25):
        subnet = random_subnet(space, order, rng)
        choices = one_hot(space, subnet, order)
        assert float(cost(choices)) == pytest.approx(whole.predict(subnet, at).value, rel=1e-9)
        assert float(cost(choices.map(torch.Tensor.float))) == pytest.approx(float(cost(choices)), rel=1e-9)
        assert float(bytes_kept(choices)) == subnet.weight_bytes


def test_gradcheck():
    space = tiny_space()
    cost = ExpectedCost(space, [1, 0], WORKLOAD.decode, lambda op: 1e5 * seconds(op), OVERHEAD)
    inputs = tuple(t.requires_grad_() for t in random_choices(space, 1).tensors())
    assert torch.autograd.gradcheck(lambda *ts: cost(Choices(*ts)), inputs)


def test_gradient_is_the_cost_of_each_choice():
    """With everything else certain, the gradient to an axis differs between choices as the subnets' costs do."""
    space, order = tiny_space(), [1, 0]
    cost = ExpectedCost(space, order, WORKLOAD.decode, seconds, OVERHEAD)
    base = space.subnet(64, 2, 16, 128, (0, 1), ((space.precisions[1],) * 7,) * 2, space.precisions[0])
    choices = one_hot(space, base, order).map(torch.Tensor.requires_grad_)
    cost(choices).backward()
    prices = [float(cost(one_hot(space, replace(base, hidden=h), order)).detach()) for h in space.hidden]
    slope = choices.hidden.grad
    assert slope is not None
    assert float(slope[0] - slope[1]) == pytest.approx(prices[0] - prices[1], rel=1e-9)


def test_one_precision_a_block_is_seven_certain_equal_ones():
    space, order = tiny_space(2), [1, 0]
    cost = ExpectedCost(space, order, WORKLOAD.decode, seconds, OVERHEAD)
    certain = torch.eye(len(space.precisions), dtype=torch.float64)
    for i in range(len(space.precisions)):
        each = replace(random_choices(space, i), precision=certain[torch.tensor([[i] * 7, [0] * 7])])
        shared = replace(each, precision=certain[torch.tensor([[i], [0]])])
        assert shared.by_block
        assert not each.by_block
        assert float(cost(shared)) == pytest.approx(float(cost(each)), rel=1e-12)


def test_batch_is_each_alone():
    space, order = tiny_space(), [0, 1]
    cost = ExpectedCost(space, order, WORKLOAD.decode, seconds)
    many = [random_choices(space, seed) for seed in range(4)]
    together = cost(Choices.stack(many))
    assert together.shape == (4,)
    assert together.tolist() == pytest.approx([float(cost(c)) for c in many], rel=1e-12)


def test_depth_keeps_the_most_important_blocks():
    """Making a block's linears dear only costs as much as the block is likely to stay."""
    space, order = tiny_space(), [1, 0]
    cost = ExpectedCost(space, order, WORKLOAD.decode, seconds)
    choices = uniform(space)
    choices = replace(choices, depth=torch.tensor([0.25, 0.75], dtype=torch.float64))
    added = []
    for block in (0, 1):
        rows = choices.precision.clone()
        rows[block] = torch.tensor([1.0, 0.0], dtype=torch.float64)
        added.append(float(cost(replace(choices, precision=rows)) - cost(choices)))
    assert added[0] == pytest.approx(0.25 * added[1], rel=1e-9)
    assert added[1] > 0


def test_one_hot_names_everything_outside_the_space():
    space = tiny_space()
    whole = Subnet.whole(space.shape, "w8a8", embed="w8a8g32")
    with pytest.raises(HwfitError) as caught:
        one_hot(space, replace(whole, hidden=96, blocks=(0,), mlp=(256,), precision=whole.precision[:1]), [1, 0])
    text = str(caught.value)
    for part in ("hidden=96", "(128, 64)", "not the 1 most important ones, [1]", "w8a8", "w4a8g32"):
        assert part in text


@pytest.mark.parametrize("order", [[0], [0, 0], [0, 2], [0, 1, 2]])
def test_bad_block_order(order):
    with pytest.raises(HwfitError, match="block_order"):
        ExpectedCost(tiny_space(), order, WORKLOAD.decode, seconds)


def test_every_missing_op_is_listed_once():
    space, at = tiny_space(), WORKLOAD.decode
    ops = space_ops(space, at)
    gone = [op for op in ops if op.kind == "norm" or op.precision == "w4a8g32"]
    lookup = Lookup.fit(frame([op for op in ops if op not in gone]), DEVICE)
    with pytest.raises(DataMiss) as caught:
        ExpectedCost(space, [0, 1], at, lookup.price)
    assert set(caught.value.missing) == set(gone)
    assert "hwfit profile" in str(caught.value)


def test_fast_enough_for_every_search_step():
    space = Space.default(SMOLLM)
    cost = ExpectedCost(space, list(range(30)), WORKLOAD.decode, seconds)
    choices = uniform(space, torch.float32).map(torch.Tensor.requires_grad_)
    best = float("inf")
    for _ in range(30):
        start = time.perf_counter()
        cost(choices).backward()
        best = min(best, time.perf_counter() - start)
    assert best < 5e-3


def test_space_precision_order_is_the_choice_order():
    space = replace(tiny_space(), precisions=(Precision.parse("w4a8g32"), Precision.parse("w32")))
    subnet = Subnet.whole(space.shape, "w4a8g32", embed="w8a8g32")
    assert one_hot(space, subnet, [0, 1]).precision[..., 0].min() == 1


@pytest.mark.parametrize("per", ["linear", "block"])
def test_mlp_widths_of_their_own_are_priced_block_by_block(per):
    """One-hot choices agree with the plain predictor; an expectation is the mean over the blocks' widths."""
    space, order = replace(tiny_space(3), mlp_per_block=True, precision_per=per), [2, 0, 1]
    lookup = Lookup.fit(frame(space_ops(space, WORKLOAD.decode)), DEVICE)
    cost = ExpectedCost(space, order, WORKLOAD.decode, lookup.price, OVERHEAD)
    plain, rng = WholeModel(lookup, OVERHEAD), random.Random(0)
    for _ in range(20):
        subnet = random_subnet(space, order, rng)
        choices = one_hot(space, subnet, order)
        assert choices.mlp_by_block
        expected = pytest.approx(plain.predict(subnet, WORKLOAD.decode).value, rel=1e-9)
        assert float(cost(choices)) == expected
        shared = replace(choices, precision=choices.precision[:, :1])
        assert per == "linear" or float(cost(shared)) == expected
    choices = random_choices(space, 3)
    mean = 0.0
    for widths in product(range(2), repeat=3):
        p = float(torch.stack([choices.mlp[b, m] for b, m in enumerate(widths)]).prod())
        certain = torch.eye(2, dtype=torch.float64)[list(widths)]
        mean += p * float(cost(replace(choices, mlp=certain)))
    assert float(cost(choices)) == pytest.approx(mean, rel=1e-9)
    assert cost(Choices.stack([choices, choices])).tolist() == pytest.approx([mean, mean], rel=1e-9)
    even = replace(choices, mlp=torch.tensor([0.3, 0.7], dtype=torch.float64).expand(3, 2))
    assert float(cost(even)) == pytest.approx(float(cost(replace(even, mlp=even.mlp[0]))), rel=1e-9)


def test_one_hot_refuses_what_a_space_does_not_offer_to_linears_or_head():
    space = replace(tiny_space(), precision_per="block", lm_head=(Precision.parse("w32"),))
    subnet = Subnet.whole(space.shape, "w4a8g32", embed="w8a8g32")
    row = (Precision.parse("w32"), *subnet.precision[0][1:])
    with pytest.raises(HwfitError) as caught:
        one_hot(space, replace(subnet, precision=(row, subnet.precision[1])), [0, 1])
    assert "linears of different precisions" in str(caught.value)
    assert "precisions w4a8g32 of the lm_head are not in the space; allowed: w32" in str(caught.value)
