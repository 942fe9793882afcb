"""Precision mixing against plain autograd, and the supernet's corners against subnets that are sliced and rounded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from search_llama import CONFIG, SHAPE, random_weights, tiny_space
from torch import Tensor

from hwfit.deploy.slice import slice_weights, subnet_config
from hwfit.errors import HwfitError
from hwfit.kernels.quantise import clipped_grid, fake_quantise, fake_quantise_activations
from hwfit.latency_models.choices import Choices, one_hot
from hwfit.precision import Precision
from hwfit.search.forward import Attention, plain_forward, weight_name
from hwfit.search.masks import masked
from hwfit.search.mixing import ActivationMix, MixedLinear, straight_through
from hwfit.search.optimise import SearchSettings, train_shared
from hwfit.search.relax import Architecture
from hwfit.search.supernet import Supernet
from hwfit.search.teacher import Targets, make_targets
from hwfit.space import Space
from hwfit.subnet import LINEARS, ModelShape, Subnet

SHARING = ("w4a16g32", "w8a8g32", "w4a8g32", "w16a16")
"""Four precisions on three weight grids and two ways to round activations."""
IDS = torch.randint(0, 40, (6, 12), generator=torch.Generator().manual_seed(9))
CPU = torch.device("cpu")


def precisions(*names: str) -> list[Precision]:
    return [Precision.parse(name) for name in names]


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def test_precisions_that_round_weights_alike_share_a_copy_and_a_pair():
    layer = MixedLinear(normal(24, 64), precisions(*SHARING), None, rank=2, seed=0)
    layer.refresh(torch.float32)
    assert len(layer.bank) == len(layer.up) == len(layer.down) == 3
    assert layer.copy(0).data_ptr() == layer.copy(2).data_ptr() != layer.copy(1).data_ptr()
    for i, p in enumerate(precisions(*SHARING)):
        want = fake_quantise(layer.weight, p, None if p.is_float else clipped_grid(layer.weight, p))
        assert torch.equal(layer.copy(i), want)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("cut", [False, True])
def test_mixed_linear_equals_autograd_through_its_definition(cut: bool, frozen: bool):
    """sum_p a_p sum_c cut_c keep_c (W + BA rounded straight-through), with and without a gradient for a."""
    some = precisions(*SHARING)
    kept = [torch.arange(64), torch.arange(0, 64, 2)]
    layer = MixedLinear(normal(24, 64), some, None, rank=2, seed=0, cuts=kept if cut else ())
    torch.nn.init.normal_(layer.up, std=0.1, generator=torch.Generator().manual_seed(2))
    layer.trained = True
    layer.refresh(torch.float32)
    x, direction = normal(2, 5, 64, seed=3).requires_grad_(), normal(2, 5, 24, seed=4)
    alpha = torch.tensor([0.1, 0.2, 0.3, 0.4], requires_grad=not frozen)
    share = torch.tensor([0.7, 0.3], requires_grad=True) if cut else None
    leaves = [x, layer.down, layer.up, *([] if frozen else [alpha]), *([] if share is None or frozen else [share])]
    got = layer(x, alpha, share)
    ours = torch.autograd.grad((got * direction).sum(), leaves)

    mixed = torch.zeros(24, 64)
    grids = {"w4a16g32": 0, "w8a8g32": 1, "w4a8g32": 0, "w16a16": 2}
    for a, p in zip(alpha, some, strict=True):
        dense = layer.weight + layer.up[grids[p.name]] @ layer.down[grids[p.name]]
        for c, columns in zip([1.0] if share is None else share, kept, strict=False):
            part = dense[:, columns]
            grid = None if p.is_float else clipped_grid(layer.weight[:, columns], p)
            rounded = straight_through(part, fake_quantise(part, p, grid))
            mixed = mixed + a * c * torch.zeros(24, 64).index_copy(1, columns, rounded)
    want = F.linear(x, mixed)
    assert torch.allclose(got, want, atol=1e-5)
    theirs = torch.autograd.grad((want * direction).sum(), leaves)
    for mine, reference in zip(ours, theirs, strict=True):
        assert float(reference.abs().max()) > 0
        assert torch.allclose(mine, reference, rtol=1e-4, atol=1e-4 * float(reference.abs().max()))


def test_activation_mix_equals_autograd_through_its_definition():
    some = precisions("w4a16g32", "w8a8g32", "w4a8g32", "w8a8", "fp8")
    mix = ActivationMix(some, CPU)
    assert len(mix.kinds) == 4
    x, direction = normal(2, 5, 64).requires_grad_(), normal(2, 5, 64, seed=1)
    alpha = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25], requires_grad=True)
    got = mix.mixed(x, mix.every(x), alpha)
    ours = torch.autograd.grad((got * direction).sum(), [x, alpha])
    want = sum(
        a * straight_through(x, fake_quantise_activations(x.detach(), p)) for a, p in zip(alpha, some, strict=True)
    )
    assert isinstance(want, Tensor)
    assert torch.allclose(got, want, atol=1e-6)
    for mine, reference in zip(ours, torch.autograd.grad((want * direction).sum(), [x, alpha]), strict=True):
        assert torch.allclose(mine, reference, rtol=1e-4, atol=1e-5)


def test_masking_has_the_gradients_of_a_product_where_the_mask_is_0_too():
    x, mask = normal(3, 4, 6).requires_grad_(), torch.tensor([1.0, 0.7, 0.2, 1e-3, 0.0, 0.0], requires_grad=True)
    direction = normal(3, 4, 6, seed=1)
    got, want = masked(x, mask), x * mask
    assert torch.allclose(got, want, atol=1e-9)
    ours = torch.autograd.grad((got * direction).sum(), [x, mask])
    theirs = torch.autograd.grad((want * direction).sum(), [x, mask])
    assert torch.allclose(ours[0], theirs[0], atol=1e-9)
    assert torch.allclose(ours[1], theirs[1], rtol=1e-5)


def drawn(space: Space, head_size: int, hidden: int = 32) -> Subnet:
    """Every linear at another precision, blocks 0 and 2."""
    n = len(space.precisions)
    rows = tuple(tuple(space.precisions[(i + shift) % n] for i in range(len(LINEARS))) for shift in (0, 1))
    return space.subnet(hidden, 2, head_size, 64, (0, 2), rows, space.precisions[1])


def sliced_and_rounded(weights: dict[str, Tensor], subnet: Subnet, ids: Tensor) -> Tensor:
    """The subnet as it is deployed: cut out first, then rounded on grids of its own."""
    small = slice_weights(weights, SHAPE, subnet)
    config = subnet_config(CONFIG, subnet)
    shape = ModelShape.from_config(config)

    def answer(block: int, name: str, p: Precision, x: Tensor) -> Tensor:
        w = small[f"{weight_name(block, name)}.weight"]
        rounded = fake_quantise(w, p, None if p.is_float else clipped_grid(w, p))
        return F.linear(fake_quantise_activations(x, p), rounded)

    def project(block: int, names: tuple[str, ...], x: Tensor) -> list[Tensor]:
        return [answer(block, name, subnet.precision[block][LINEARS.index(name)], x) for name in names]

    attention = Attention.of(shape.heads, shape.kv_heads, shape.head_size, config)
    depth = len(subnet.blocks)
    hidden = plain_forward(ids, small, attention, depth, float(config["rms_norm_eps"]), project)
    return answer(-1, "lm_head", subnet.lm_head, hidden)


@pytest.mark.parametrize("certain", [True, False])
@pytest.mark.parametrize("head_size", [16, 8])
def test_a_corner_of_the_supernet_is_the_deployed_subnet(head_size: int, certain: bool):
    """Group rounding is exact at every width: groups follow the masks, and o_proj has copies of each head size."""
    space = tiny_space("w32", "w4a8g32", "w8a8g32", "w4a16g32")
    # groups of 32 need 32 inputs of o_proj: 4 heads of 8, 2 of 16
    subnet = replace(drawn(space, head_size), heads=4 if head_size == 8 else 2, kv_heads=2 if head_size == 8 else 1)
    weights = random_weights()
    net = Supernet(weights, CONFIG, space, (0, 2, 1))
    choices = one_hot(space, subnet, (0, 2, 1), torch.float32)
    with torch.set_grad_enabled(not certain):
        got = net(IDS, choices).detach()
    with torch.no_grad():
        want = sliced_and_rounded(weights, subnet, IDS)
    # a value on a rounding boundary may fall to the other side, which the positions after it see
    close = (got - want).abs().amax(-1) <= 1e-4 * want.abs().max()
    assert close.float().mean() > 0.8


@pytest.mark.parametrize("name", ["w8a8g32", "w4a8g64", "w2a8g128"])
def test_widths_that_cut_through_groups_are_refused(name: str):
    space = replace(tiny_space(name), hidden=(64, 48))
    with pytest.raises(HwfitError, match="divide"):
        space.check()


def soft(space: Space, seed: int = 1) -> Choices:
    g = torch.Generator().manual_seed(seed)
    sizes = [len(a) for a in (space.hidden, space.heads, space.head_size, space.mlp, space.depth)]
    n = len(space.precisions)
    shapes = [*((s,) for s in sizes), (SHAPE.blocks, len(LINEARS), n), (n,)]
    return Choices(*(torch.rand(*s, generator=g).softmax(-1).requires_grad_() for s in shapes))


def gradients(net: Supernet, space: Space, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    choices = soft(space)
    direction = normal(*IDS.shape, SHAPE.vocab, seed=3)
    net.zero_grad()
    (net(IDS, choices).float() * direction).sum().backward()
    out = {f"choices {i}": t.grad for i, t in enumerate(choices.tensors())}
    out |= {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    return {name: g for name, g in out.items() if g is not None}


def trained_net(space: Space, **rules) -> Supernet:
    net = Supernet(random_weights(), CONFIG, space, (0, 1, 2), rank=2, **rules)
    for i, p in enumerate(p for name, p in net.named_parameters() if name.endswith("up")):
        torch.nn.init.normal_(p, std=0.02, generator=torch.Generator().manual_seed(i))
    net.refresh()
    return net


def test_running_blocks_again_changes_no_gradient():
    space = tiny_space(*SHARING)
    plain, again = (gradients(trained_net(space, recompute=r), space) for r in (False, True))
    assert set(plain) == set(again)
    assert len(plain) > 2 * 3 * len(LINEARS)
    for name, g in plain.items():
        assert torch.allclose(g, again[name], atol=1e-6 * float(g.abs().max())), name


def test_running_blocks_again_remembers_less():
    space = tiny_space("w32")

    def remembered(recompute: bool) -> int:
        sizes: dict[int, int] = {}

        def pack(t: Tensor) -> Tensor:
            sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        net = trained_net(space, recompute=recompute)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            out = net(IDS, soft(space))
        del out
        return sum(sizes.values())

    assert remembered(True) < 0.5 * remembered(False)


def test_bf16_gradients_point_where_fp32_ones_do():
    space = tiny_space("w16a16", "w8a8g32", "w4a8g32")
    wide = gradients(trained_net(space), space)
    narrow = gradients(trained_net(space, dtype=torch.bfloat16), space)
    for name, g in wide.items():
        assert narrow[name].dtype == g.dtype, name
        if g.abs().max() > 1e-6:
            assert F.cosine_similarity(g.flatten(), narrow[name].flatten(), dim=0) > 0.97, name


def test_shared_weights_resume_to_the_same_pairs(tmp_path):
    space = tiny_space(*SHARING)
    weights = random_weights()
    train: Targets = make_targets(weights, CONFIG, IDS, top=8, progress=False)
    settings = SearchSettings(weight_steps=4, sequences=2, rank=2, checkpoint_every=2)

    def net() -> Supernet:
        return Supernet(weights, CONFIG, space, (0, 1, 2), rank=2)

    class Killed(Exception):
        pass

    def advance(steps: float = 1.0, note: str | None = None) -> None:
        seen.append(steps)
        if len(seen) == 3:
            raise Killed

    whole, seen = net(), []
    train_shared(whole, Architecture(space), train, settings, tmp_path / "whole", "k")
    with pytest.raises(Killed):
        train_shared(net(), Architecture(space), train, settings, tmp_path / "part", "k", advance)
    resumed = net()
    train_shared(resumed, Architecture(space), train, settings, tmp_path / "part", "k")
    for (name, want), got in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(want, got), name
    assert torch.equal(whole.linear(1, "o_proj").bank, resumed.linear(1, "o_proj").bank)
    assert whole.linear(1, "up_proj").up.abs().max() > 0
