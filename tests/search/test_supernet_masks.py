"""`benchmarks.supernet_masks`: its rivals mix what we mix, its spaces have the candidates that they claim."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from search_llama import CONFIG, random_weights, tiny_space

from benchmarks.supernet_masks.layers import OURS, Layers
from benchmarks.supernet_masks.rivals import RIVALS, Axis, Pairs
from benchmarks.supernet_masks.setting import (
    COUNTS,
    DEPTHS,
    QUANTISED,
    Clock,
    offer,
    peak_bytes,
    soft_choices,
    space_of,
)
from benchmarks.supernet_masks.step import Step
from hwfit.search.supernet import CUT, Supernet

CPU = torch.device("cpu")


@pytest.mark.parametrize("count", COUNTS)
def test_every_space_has_the_candidates_it_claims_and_groups_follow_its_widths(count: int):
    space = space_of(count, QUANTISED[:1])
    space.check()
    axes = (space.hidden, space.heads, space.head_size, space.mlp)
    assert math.prod(len(axis) for axis in axes) * DEPTHS == count


def test_rivals_give_the_supernets_numbers():
    net = Supernet(random_weights(), CONFIG, tiny_space("w32"), (0, 1, 2), rank=2)
    for p in net.parameters():
        p.requires_grad_(False)
    times = Layers(net, 5, Clock(CPU)).measure(2, 1, True, lambda **k: None)
    assert times.difference < 1e-5
    assert all(times.whole.values())
    for form in (OURS, *RIVALS):
        assert times.total(form) > 0
    pairs = Pairs(Axis.of(net.space, "q"), Axis.of(net.space, "hidden"))
    assert len(pairs) == 8
    wrong = torch.stack([view(torch.ones(64, 64)).sum() for view in pairs.views()])
    assert torch.equal(wrong, pairs.stack(slice(None), CPU).float().sum((1, 2)))


def test_a_part_of_the_slices_or_rows_is_charged_in_full():
    net = Supernet(random_weights(), CONFIG, tiny_space("w32"), (0, 1, 2), rank=2)
    times = Layers(net, 5, Clock(CPU)).measure(1, 4, False, lambda **k: None)
    assert times.whole == {"loops": False, "stacked": False, "tight_loops": True}
    slices = {name: len(Layers(net, 5, Clock(CPU))._pairs(name)) for name in ("q_proj", "down_proj")}
    assert slices == {"q_proj": 8, "down_proj": 6}


def test_rounding_what_is_mixed_is_mixing_what_is_rounded():
    """The step's reference, written with plain autograd, at every width and both head sizes."""
    space = replace(tiny_space("w8a16g32", "w8a8g32", "w4a8g32"), heads=(4,))  # 2 heads of 8 are no whole group
    space.check()
    net = Supernet(random_weights(), CONFIG, space, (0, 1, 2), rank=2)
    for i, p in enumerate(p for name, p in net.named_parameters() if name.endswith("up")):
        torch.nn.init.normal_(p, std=0.02, generator=torch.Generator().manual_seed(i))
    net.refresh()
    output, gradient = Step(net, 6).difference()
    assert output < 1e-4
    assert gradient < 1e-3


def test_offering_another_space_is_a_supernet_of_that_space():
    first = tiny_space("w8a8g32", "w4a8g32")
    second = replace(first, head_size=(16,), mlp=(96, 64))
    net = Supernet(random_weights(), CONFIG, first, (0, 1, 2), rank=2)
    assert len(net.linear(0, CUT).bank) == 4
    offer(net, second)
    want = Supernet(random_weights(), CONFIG, second, (0, 1, 2), rank=2)
    assert torch.equal(net.linear(0, CUT).bank, want.linear(0, CUT).bank)
    assert torch.equal(net.linear(0, CUT).down, want.linear(0, CUT).down)
    assert soft_choices(second, CPU).head_size.shape == (1,)


def test_peak_memory_is_what_was_held_at_once():
    def call() -> None:
        a = torch.ones(1000)
        b = a + a
        del a
        torch.add(b, b)

    assert peak_bytes(call, CPU) == 8000
