"""One precision a block, an MLP width a block, an LM head of its own: every part of the search stays inside the space,
and is held against brute force."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product

import pytest
import torch
from search_llama import CONFIG, SHAPE, random_weights, tiny_space

from hwfit.latency_models.choices import one_hot, outside, uniform
from hwfit.latency_models.differentiable import Choices
from hwfit.precision import Precision
from hwfit.search.discretise import Picked, Problem, most_likely, random_pick, repair, with_precision
from hwfit.search.importance import measure_importance, order_model
from hwfit.search.knapsack import best_by_damage, neighbours
from hwfit.search.masks import soft_masks
from hwfit.search.relax import PRECISIONS, Architecture
from hwfit.search.sensitivity import fisher_shares, full, measure_damage
from hwfit.search.supernet import Supernet
from hwfit.search.teacher import distillation_loss, make_targets
from hwfit.space import Space
from hwfit.subnet import LINEARS, Subnet

ORDER = (1, 0, 2)
IDS = torch.randint(0, 40, (4, 12), generator=torch.Generator().manual_seed(9))
BLOCKS = {"precision_per": "block"}
MLPS = {"mlp_per_block": True}
HEAD = {
    "linears": (Precision.parse("w8a8g32"), Precision.parse("w4a8g32")),
    "lm_head": (Precision.parse("w32"),),
}
RULES = [BLOCKS, MLPS, BLOCKS | MLPS, HEAD, BLOCKS | MLPS | HEAD]


def spaced(rules: dict) -> Space:
    return replace(tiny_space(), **rules)


def cost(subnet: Subnet) -> dict[str, float]:
    """Additive over linears, with a term for each MLP width alone."""
    bits = sum(n * k * (p.weight_bits + (p.group is None)) for n, k, p in subnet.linears.values())
    return {"memory": float(bits + 50 * sum(subnet.mlp))}


def random_damage(space: Space, seed: int) -> Choices:
    g = torch.Generator().manual_seed(seed)

    def harm(t: torch.Tensor) -> torch.Tensor:
        out = torch.rand(t.shape, generator=g, dtype=torch.float64).sort(-1)[0]
        return out - out[..., :1]

    return uniform(space).map(harm)


def total(damage: Choices, space: Space, picked: Picked) -> float:
    """The damage of a pick, added up in words."""
    out = sum(
        float(getattr(damage, a)[getattr(picked, a)]) for a in ("hidden", "heads", "head_size", "depth", "lm_head")
    )
    if isinstance(picked.mlp, int):
        out += float(damage.mlp[picked.mlp])
    for b in ORDER[: space.depth[picked.depth]]:
        out += sum(float(damage.precision[b, i, p]) for i, p in enumerate(picked.precision[b]))
        if isinstance(picked.mlp, tuple):
            out += float(damage.mlp[b, picked.mlp[b]])
    return out


def inside(space: Space, picked: Picked) -> bool:
    return not outside(space, picked.subnet(space, ORDER))


@pytest.mark.parametrize("rules", RULES)
def test_random_subnets_and_argmax_are_of_the_space(rules: dict):
    space, rng = spaced(rules), random.Random(0)
    for seed in range(10):
        assert not outside(space, space.sample(rng))
        assert inside(space, random_pick(space, rng))
        architecture = Architecture(space)
        with torch.no_grad():
            for logits in architecture.logits.values():
                logits += torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed))
        drawn = architecture.sample(4.0, torch.Generator().manual_seed(seed))
        for choices in (architecture.mean(), drawn):
            assert inside(space, most_likely(choices.map(torch.Tensor.detach)))
            assert choices.precision.shape == (3, len(LINEARS), 3)
            for linear, rows in ((LINEARS[0], choices.precision), ("lm_head", choices.lm_head)):
                gone = [i for i in range(3) if i not in space.options(linear)]
                assert float(rows.detach()[..., gone].sum()) < 1e-2 * rows[..., 0].numel()
            if space.precision_per == "block":
                assert (choices.precision == choices.precision[:, :1]).all()


@pytest.mark.parametrize("rules", RULES)
def test_the_logits_a_space_has_are_those_it_needs(rules: dict):
    space = spaced(rules)
    logits = Architecture(space).logits
    assert logits["precision"].shape == (3, 1 if space.precision_per == "block" else 7, 3)
    assert logits["mlp"].shape == ((3, 3) if space.mlp_per_block else (3,))


def test_freezing_a_precision_leaves_the_head_at_what_it_may_take():
    space = spaced(HEAD)
    architecture = Architecture(space)
    architecture.freeze(PRECISIONS, 2)
    picked = most_likely(architecture.mean().map(torch.Tensor.detach))
    assert picked.precision == ((2,) * 7,) * 3
    assert picked.lm_head == 0
    assert inside(space, with_precision(picked, 1, space))


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("seed", range(3))
def test_repair_meets_the_budget_inside_the_space_and_leaves_nothing_better_affordable(rules: dict, seed: int):
    space = spaced(rules)
    damage, start = random_damage(space, seed), random_pick(space, random.Random(seed))
    limit = cost(start.subnet(space, ORDER))["memory"] * (0.6, 0.9, 1.3)[seed]
    got = repair(start, Problem(damage, space, ORDER, cost, {"memory": limit}))
    assert inside(space, got)
    assert cost(got.subnet(space, ORDER))["memory"] <= limit
    here = total(damage, space, got)
    for b in ORDER[: space.depth[got.depth]]:
        rows = [got.at(b, row=(p,) * 7) for p in space.options(LINEARS[0])] if space.precision_per == "block" else []
        near = [got.at(b, mlp=m) for m in range(3) if abs(m - got.mlp[b]) == 1] if space.mlp_per_block else []
        for other in (*rows, *near):
            better = total(damage, space, other) < here - 1e-5
            assert not better or cost(other.subnet(space, ORDER))["memory"] > limit


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("seed", range(3))
def test_the_knapsack_is_within_one_item_of_the_best_of_all_subnets(rules: dict, seed: int):
    shape = replace(SHAPE, blocks=2)
    base = replace(spaced(rules), shape=shape, depth=(2,), heads=(4,), head_size=(16,), mlp=(96, 32))
    p = tuple(map(Precision.parse, ("w32", "w8a8g32", "w4a8g32") if "linears" in rules else ("w32", "w4a8g32")))
    space = replace(base, precisions=p)
    damage, blocks, order = random_damage(space, seed), range(2), (1, 0)
    options = space.options(LINEARS[0])
    if space.precision_per == "block":
        rows = [(o,) * 7 for o in options]
    else:  # four linears of the seven are undecided
        rows = [(a, options[0], options[0], b, c, options[0], d) for a, b, c, d in product(options, repeat=4)]
        fixed = torch.zeros(7, dtype=torch.bool)
        fixed[[1, 2, 5]] = True
        damage.precision[:, fixed] = 10.0
        damage.precision[:, fixed, options[0]] = 0.0
    widths = list(product(range(2), repeat=2)) if space.mlp_per_block else [0, 1]
    every = [
        Picked(h, 0, 0, m, 0, row, head)
        for h, m, head in product(range(2), widths, space.options("lm_head"))
        for row in product(rows, repeat=len(blocks))
    ]
    known = {pick: cost(pick.subnet(space, order))["memory"] for pick in every}
    harm = {pick: total(damage, space, pick) for pick in every}
    largest = 7 * 1.0 if space.precision_per == "block" else 3.0 if space.mlp_per_block else 1.0
    for share in (0.7, 0.35):
        limit = share * max(known.values())
        best = min(harm[pick] for pick in every if known[pick] <= limit)
        problem = Problem(damage, space, order, cost, {"memory": limit})
        got = best_by_damage(problem)
        assert got is not None
        assert not outside(space, got.subnet(space, order))
        assert cost(got.subnet(space, order))["memory"] <= limit
        assert best - 1e-9 <= total(damage, space, got) <= best + largest
        for near in neighbours(got, problem):
            assert not outside(space, near.subnet(space, order))
            assert cost(near.subnet(space, order))["memory"] <= limit
    free = best_by_damage(Problem(damage, space, order, cost, {"memory": 1e15}))
    assert free is not None
    assert total(damage, space, free) == pytest.approx(min(harm.values()))


def test_a_supernet_with_an_mlp_width_a_block_is_the_network_with_those_neurons_cut():
    """Against the original with the weights of the dropped neurons set to 0."""
    space = replace(tiny_space("w32"), mlp_per_block=True)
    weights = random_weights()
    rows = ((space.precisions[0],) * 7,) * 3
    subnet = space.subnet(64, 4, 16, (64, 96, 32), (0, 1, 2), rows, space.precisions[0])
    net = Supernet(weights, CONFIG, space, ORDER)
    cut = {n: w.clone() for n, w in weights.items()}
    for block, width in enumerate(subnet.mlp):
        cut[f"model.layers.{block}.mlp.down_proj.weight"][:, width:] = 0
    whole = Supernet(cut, CONFIG, tiny_space("w32"), ORDER)
    with torch.no_grad():
        got = net(IDS, one_hot(space, subnet, ORDER).map(lambda t: t.float()))
        want = whole(IDS, full(whole))
    assert torch.allclose(got, want, atol=1e-5)


def test_soft_widths_of_a_block_mix_each_on_its_own():
    space = spaced(MLPS)
    c = uniform(space, torch.float32)
    mlp = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.2, 0.3, 0.5]])
    masks = soft_masks(space, c.hidden, c.heads, c.head_size, mlp)
    for block in range(3):
        alone = soft_masks(tiny_space(), c.hidden, c.heads, c.head_size, mlp[block])
        mine, theirs = masks.of("mlp", block), alone.of("mlp", block)
        assert mine is not None
        assert theirs is not None
        assert torch.equal(mine, theirs)
        assert masks.of("hidden", block) is masks.hidden


def test_damage_of_mlp_widths_adds_up_to_the_uniform_trial_and_counts_kept_blocks_only():
    weights = random_weights()
    ordered = order_model(weights, SHAPE, measure_importance(weights, CONFIG, IDS, progress=False))
    targets = make_targets(ordered.weights, CONFIG, IDS, top=8, progress=False)
    space = replace(tiny_space("w32", "w4a8g32"), mlp_per_block=True)
    net = Supernet(ordered.weights, CONFIG, space, ORDER)
    damage = measure_damage(net, targets, progress=False)
    base = full(net)
    with torch.no_grad():
        reference = float(distillation_loss(net(IDS, base), targets))
        for i in (1, 2):
            hot = torch.eye(3)[i].expand(3, 3)
            loss = float(distillation_loss(net(IDS, replace(base, mlp=hot)), targets))
            assert float(damage.table.mlp[:, i].sum()) == pytest.approx(loss - reference, rel=1e-4)
    assert (damage.table.mlp[:, 0] == 0).all()
    assert (damage.table.mlp[:, 2] > damage.table.mlp[:, 1]).all()
    picked = Picked(0, 0, 0, (2, 1, 0), 1, ((0,) * 7,) * 3, 0)  # two blocks: the third of ORDER is dropped
    expected = float(damage.table.mlp[0, 2] + damage.table.mlp[1, 1] + damage.table.depth[1])
    assert damage.of(picked) == pytest.approx(expected)
    hot = one_hot(space, picked.subnet(space, ORDER), ORDER).map(lambda t: t.float())
    assert float(damage.surrogate(hot)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("at_once", [1, 4, 5])
def test_information_is_the_same_however_many_sequences_a_pass_takes(at_once: int, monkeypatch: pytest.MonkeyPatch):
    weights = random_weights()
    ordered = order_model(weights, SHAPE, measure_importance(weights, CONFIG, IDS, progress=False))
    targets = make_targets(ordered.weights, CONFIG, IDS, top=8, progress=False)
    net = Supernet(ordered.weights, CONFIG, replace(tiny_space("w32", "w4a8g32"), mlp_per_block=True), ORDER)
    monkeypatch.setattr("hwfit.search.sensitivity.AT_ONCE", len(IDS))
    whole = fisher_shares(net, targets)
    monkeypatch.setattr("hwfit.search.sensitivity.AT_ONCE", at_once)
    for mine, theirs in zip(fisher_shares(net, targets), whole, strict=True):
        assert float(theirs.sum()) > 0
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=0)
