"""The factorised supernet against explicit nested-loop mixing, written here in plain float64 loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from search_llama import CONFIG, SHAPE, random_weights, tiny_space
from torch import Tensor

from hwfit.kernels.quantise import fake_quantise
from hwfit.latency_models.differentiable import Choices
from hwfit.precision import Precision
from hwfit.search.masks import keep_gates, soft_masks
from hwfit.search.supernet import Supernet
from hwfit.subnet import LINEARS


def random_choices(space, seed: int = 1, dtype=torch.float64) -> Choices:
    g = torch.Generator().manual_seed(seed)

    def simplex(*size: int) -> Tensor:
        return torch.rand(*size, generator=g, dtype=dtype).add(0.2).log().softmax(-1).requires_grad_()

    p = len(space.precisions)
    return Choices(
        hidden=simplex(len(space.hidden)),
        heads=simplex(len(space.heads)),
        head_size=simplex(len(space.head_size)),
        mlp=simplex(len(space.mlp)),
        depth=simplex(len(space.depth)),
        precision=simplex(SHAPE.blocks, len(LINEARS), p),
        lm_head=simplex(p),
    )


def keep_rows(space, kind: str) -> list[tuple[tuple[str, int] | tuple[str, int, int], list[int]]]:
    """Every choice of a width with the channels it keeps, spelled out channel by channel."""
    if kind == "hidden":
        return [(("hidden", i), list(range(w))) for i, w in enumerate(space.hidden)]
    if kind == "mlp":
        return [(("mlp", i), list(range(w))) for i, w in enumerate(space.mlp)]
    out = []
    for i, heads in enumerate(space.heads):
        for j, size in enumerate(space.head_size):
            count = heads if kind == "q" else heads // 2
            kept = []
            for head in range(count):
                for pair in range(8):  # rotary pairs (pair, pair + 8) of a head of 16
                    if pair % (16 // size) == 0:
                        kept += [head * 16 + pair, head * 16 + pair + 8]
            out.append((("heads", i, j), sorted(kept)))
    return out


def probability(c: Choices, choice) -> Tensor:
    if choice[0] == "heads":
        return c.heads[choice[1]] * c.head_size[choice[2]]
    return getattr(c, choice[0])[choice[1]]


def nested(c: Choices, space, weight: Tensor, out_kind: str | None, in_kind: str | None) -> Tensor:
    """sum_ij p_i p_j (weight masked to the subnet (i, j)): one masked copy a candidate."""
    total = torch.zeros_like(weight)
    rows = keep_rows(space, out_kind) if out_kind else [(None, list(range(weight.shape[0])))]
    columns = keep_rows(space, in_kind) if in_kind else [(None, list(range(weight.shape[1])))]
    for i, keep_out in rows:
        for j, keep_in in columns:
            mask = torch.zeros_like(weight)
            for r in keep_out:
                mask[r, keep_in] = 1.0
            p = (probability(c, i) if i else 1.0) * (probability(c, j) if j else 1.0)
            total = total + p * mask * weight
    return total


def nested_norm(c: Choices, space, gain: Tensor, x: Tensor) -> Tensor:
    mixed = sum(
        probability(c, i) * gain * torch.tensor([float(m in keep) for m in range(64)])
        for i, keep in keep_rows(space, "hidden")
    )
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5) * mixed


def rotary(x: Tensor) -> Tensor:  # [seq, 16]
    out = torch.empty_like(x)
    for t in range(x.shape[0]):
        for i in range(8):
            angle = t * 10000.0 ** (-2 * i / 16)
            a, b = x[t, i], x[t, i + 8]
            out[t, i] = a * math.cos(angle) - b * math.sin(angle)
            out[t, i + 8] = b * math.cos(angle) + a * math.sin(angle)
    return out


def reference(c: Choices, space, w: dict[str, Tensor], ids: Tensor, gates: Tensor) -> Tensor:
    """One sequence at full precision, every weight mixed by nested loops, attention head by head."""
    x = nested(c, space, w["model.embed_tokens.weight"], None, "hidden")[ids]
    for b in range(SHAPE.blocks):
        if gates[b] == 0:
            continue
        p = f"model.layers.{b}."
        h = nested_norm(c, space, w[p + "input_layernorm.weight"], x)
        q = h @ nested(c, space, w[p + "self_attn.q_proj.weight"], "q", "hidden").T
        k = h @ nested(c, space, w[p + "self_attn.k_proj.weight"], "kv", "hidden").T
        v = h @ nested(c, space, w[p + "self_attn.v_proj.weight"], "kv", "hidden").T
        heads = []
        for head in range(4):
            kv = head // 2
            qh, kh = rotary(q[:, head * 16 : head * 16 + 16]), rotary(k[:, kv * 16 : kv * 16 + 16])
            scores = (qh @ kh.T / 4.0).masked_fill(torch.ones(len(ids), len(ids)).triu(1).bool(), -math.inf)
            heads.append(scores.softmax(-1) @ v[:, kv * 16 : kv * 16 + 16])
        o = torch.cat(heads, -1) @ nested(c, space, w[p + "self_attn.o_proj.weight"], "hidden", "q").T
        x = x + gates[b] * o
        h = nested_norm(c, space, w[p + "post_attention_layernorm.weight"], x)
        g = h @ nested(c, space, w[p + "mlp.gate_proj.weight"], "mlp", "hidden").T
        u = h @ nested(c, space, w[p + "mlp.up_proj.weight"], "mlp", "hidden").T
        down = nested(c, space, w[p + "mlp.down_proj.weight"], "hidden", "mlp")
        x = x + gates[b] * ((g / (1 + (-g).exp()) * u) @ down.T)
    x = nested_norm(c, space, w["model.norm.weight"], x)
    return x @ nested(c, space, w["lm_head.weight"], None, "hidden").T


def test_factorised_masks_equal_nested_loops_in_outputs_and_gradients():
    space = tiny_space("w32")
    ids = torch.tensor([[3, 17, 5, 39, 0, 8, 21]])
    ours, theirs = random_choices(space), random_choices(space)
    order = (2, 0, 1)
    gates = torch.stack([ours.depth[: 3 - order.index(b)].sum() for b in range(3)])
    got = Supernet(random_weights(), CONFIG, space, order)(ids, ours.map(lambda t: t.float()))[0]
    gates = torch.stack([theirs.depth[: 3 - order.index(b)].sum() for b in range(3)])
    wide = {name: t.double() for name, t in random_weights().items()}
    want = reference(theirs, space, wide, ids[0], gates)
    assert (got.double() - want).abs().max() <= 1e-5 * want.abs().max()

    direction = torch.randn(want.shape, generator=torch.Generator().manual_seed(5))
    (got * direction).sum().backward()
    (want * direction.double()).sum().backward()
    for axis in ("hidden", "heads", "head_size", "mlp", "depth"):
        mine, reference_gradient = getattr(ours, axis).grad, getattr(theirs, axis).grad
        assert reference_gradient.abs().max() > 1e-3, axis
        assert (mine - reference_gradient).abs().max() <= 1e-5 * reference_gradient.abs().max(), axis


def test_low_rank_pairs_mix_like_their_product_added_to_the_weight():
    """With one float precision, W + BA through the supernet equals a supernet whose weight already is W + BA."""
    space = tiny_space("w32")
    weights = random_weights()
    net = Supernet(weights, CONFIG, space, (0, 1, 2), rank=3)
    layer = net.linears["1_up_proj"]
    torch.nn.init.normal_(layer.up, generator=torch.Generator().manual_seed(2))
    net.refresh()
    ids = torch.arange(6)[None]
    choices = random_choices(space, dtype=torch.float32)
    direction = torch.randn(1, 6, 40, generator=torch.Generator().manual_seed(3))
    (net(ids, choices) * direction).sum().backward()

    name = "model.layers.1.mlp.up_proj.weight"
    up, down = layer.up.detach()[0].clone(), layer.down.detach()[0].clone()
    merged = Supernet(weights | {name: weights[name] + up @ down}, CONFIG, space, (0, 1, 2), rank=3)
    assert torch.allclose(net(ids, choices), merged(ids, choices), atol=1e-5)
    # gradient of the product through finite differences of the merged weight
    step = torch.randn(layer.up.shape[1:], generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            layer.up[0].copy_(up + sign * 1e-2 * step)
            net.refresh()
            values.append(float((net(ids, choices) * direction).sum()))
    slope = (values[0] - values[1]) / 2e-2
    assert float((layer.up.grad[0] * step).sum()) == pytest.approx(slope, rel=2e-2)


@pytest.mark.parametrize("name", ["w8a8g32", "w4a8g32", "w2a8g32"])
def test_group_quantisation_commutes_with_width_masks(name: str):
    """Q(diag(r) W diag(c)) = diag(r) Q(W) diag(c) when the widths are multiples of the group."""
    space, p = tiny_space(), Precision.parse(name)
    c = random_choices(space, dtype=torch.float32)
    m = soft_masks(space, c.hidden, c.heads, c.head_size, c.mlp)
    w = random_weights()["model.layers.0.mlp.gate_proj.weight"]
    r, columns = m.mlp.detach(), m.hidden.detach()
    mixed = fake_quantise(r[:, None] * w * columns, p)
    assert torch.allclose(mixed, r[:, None] * fake_quantise(w, p) * columns, atol=1e-5)


def test_alpha_gradient_is_the_inner_product_with_each_quantised_copy():
    space = tiny_space()
    net = Supernet(random_weights(), CONFIG, space, (0, 1, 2))
    ids, base = torch.arange(8)[None], random_choices(space, dtype=torch.float32)
    direction = torch.randn(1, 8, 40, generator=torch.Generator().manual_seed(3))
    (net(ids, base) * direction).sum().backward()
    step = torch.tensor([1.0, 0.0, -1.0])
    moved = [replace(base, lm_head=base.lm_head.detach() + s * 1e-2 * step) for s in (1, -1)]
    above, below = (float((net(ids, c) * direction).sum().detach()) for c in moved)
    assert float((base.lm_head.grad * step).sum()) == pytest.approx((above - below) / 2e-2, rel=2e-2)


def test_dropped_blocks_are_the_least_important_ones():
    gates = keep_gates(torch.tensor([0.0, 1.0, 0.0]), (3, 2, 1), 3)
    assert gates.tolist() == [1.0, 1.0, 0.0]
