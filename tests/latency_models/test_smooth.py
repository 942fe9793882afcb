"""Continuous widths: exact on the grid, smooth between, and near what the device would take there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_table import WORKLOAD, seconds, tiny_space

from hwfit.errors import HwfitError
from hwfit.kernels.op import Op
from hwfit.latency_models.differentiable import ExpectedCost, one_hot
from hwfit.latency_models.smooth import SmoothAxis

AXES = st.lists(st.integers(1, 16384), min_size=2, max_size=8, unique=True)


@settings(deadline=None)
@given(AXES)
def test_every_choice_is_itself(axis: list[int]):
    weights = SmoothAxis(axis)(torch.tensor(axis, dtype=torch.float64))
    torch.testing.assert_close(weights, torch.eye(len(axis), dtype=torch.float64), atol=1e-9, rtol=0)


@settings(deadline=None)
@given(AXES, st.floats(0, 1))
def test_straight_lines_stay_straight(axis: list[int], at: float):
    width = torch.tensor(min(axis) + at * (max(axis) - min(axis)), dtype=torch.float64)
    weights = SmoothAxis(axis)(width)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-9)
    assert float(weights @ torch.tensor(axis, dtype=torch.float64)) == pytest.approx(float(width), rel=1e-9)


def test_the_slope_is_continuous_across_choices():
    axis = (4096, 3072, 2560, 1024, 512)
    smooth = SmoothAxis(axis)
    prices = torch.tensor([9.0, 5.0, 4.5, 2.0, 1.0], dtype=torch.float64)

    def slope(width: float) -> float:
        x = torch.tensor(width, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(smooth(x) @ prices, x)[0].item()

    for node in axis[1:-1]:
        assert slope(node - 1e-6) == pytest.approx(slope(node + 1e-6), rel=1e-5)
    x = torch.tensor([600.0, 1500.0, 2600.0, 4000.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(smooth, (x,))


def test_a_whole_model_at_a_width_between_two_choices():
    space = replace(tiny_space(), mlp=(512, 448, 320, 256, 192, 128))
    order = list(range(space.shape.blocks))
    subnet = space.subnet(
        space.hidden[0],
        space.heads[0],
        space.head_size[0],
        512,
        tuple(range(space.depth[0])),
        ((space.precisions[0],) * 7,) * space.depth[0],
        space.precisions[0],
    )

    def law(op: Op) -> float:
        return 40 * seconds(op) ** 1.3

    for phase in (WORKLOAD.decode, WORKLOAD.prefill):
        cost, mlp = ExpectedCost(space, order, phase, law), SmoothAxis(space.mlp)
        for width in (160, 300, 384, 480):
            only = replace(space, mlp=(width,))
            certain = one_hot(only, replace(subnet, mlp=(width,) * len(subnet.blocks)), order)
            truth = float(ExpectedCost(only, order, phase, law)(certain))
            x = torch.tensor(float(width), dtype=torch.float64, requires_grad=True)
            guess = cost(replace(one_hot(space, subnet, order), mlp=mlp(x)))
            assert guess.item() == pytest.approx(truth, rel=1e-3)
            assert torch.autograd.grad(guess, x)[0].item() > 0


def test_ends_hold_and_bad_axes_are_refused():
    weights = SmoothAxis((512, 256))(torch.tensor([100.0, 600.0]))
    torch.testing.assert_close(weights, torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64))
    for axis in ((512,), (512, 512)):
        with pytest.raises(HwfitError, match="at least two different widths"):
            SmoothAxis(axis)
