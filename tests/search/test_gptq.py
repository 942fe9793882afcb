"""GPTQ against its definition in float64: after each input is rounded, the others are the least-squares best."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hwfit.kernels.quantise import Grid, clipped_grid, fake_quantise, minmax_grid
from hwfit.precision import Precision
from hwfit.search.gptq import DAMP, gptq


def inputs(k: int, tokens: int = 400) -> torch.Tensor:
    """Correlated: a few common causes and a little of their own."""
    g = torch.Generator().manual_seed(1)
    return torch.randn(tokens, 6, generator=g) @ torch.randn(6, k, generator=g) + 0.3 * torch.randn(
        tokens, k, generator=g
    )


def brute_force(w: np.ndarray, moments: np.ndarray, p: Precision, grid: Grid) -> np.ndarray:
    """Rounds inputs in order; before each, solves afresh for all that are left, given all that are rounded."""
    n, k = w.shape
    h = moments + DAMP * np.diag(moments).mean() * np.eye(k)
    q, group = np.zeros((n, k)), p.group or k
    scales = grid.scales.double().numpy()
    zeros = np.zeros_like(scales) if grid.zeros is None else grid.zeros.double().numpy()
    low, high = (-127, 127) if p.symmetric else (0, 2**p.weight_bits - 1)
    for i in range(k):
        done, left = slice(0, i), slice(i, k)
        # argmin over x of (q - w, x - w) h (q - w, x - w)': x = w - h_ll^-1 h_ld (q - w)
        x = w[:, left] - np.linalg.solve(h[left, left], h[left, done] @ (q[:, done] - w[:, done]).T).T
        s, z = scales[:, i // group], zeros[:, i // group]
        q[:, i] = (np.clip(np.round(x[:, 0] / s) + z, low, high) - z) * s
    return q


@pytest.mark.parametrize("name", ["w4a8g32", "w2a8g32", "w8a8", "w4a16"])
def test_rounds_as_the_definition_does(name: str):
    p, k = Precision.parse(name), 160  # more than one batch
    w = torch.randn(12, k, generator=torch.Generator().manual_seed(0))
    x = inputs(k)
    moments = x.T @ x / len(x)
    grid = clipped_grid(w, p, moments.diagonal())
    got = fake_quantise(gptq(w, p, moments, grid), p, grid).double().numpy()
    want = brute_force(w.double().numpy(), moments.double().numpy(), p, grid)
    # fp32 against fp64: a value on a rounding boundary goes the other way, and what follows it in its row with it
    assert (np.abs(got - want) < 1e-5).mean() > 0.95


@pytest.mark.parametrize("name", ["w4a8g32", "w2a8g32", "w4a16"])
def test_loses_less_of_the_output_than_rounding_to_nearest(name: str):
    p, k = Precision.parse(name), 128
    w = torch.randn(64, k, generator=torch.Generator().manual_seed(0))
    x = inputs(k)
    moments = x.T @ x / len(x)

    def lost(rounded: torch.Tensor) -> float:
        return float((x @ (rounded - w).T).square().mean())

    nearest = lost(fake_quantise(w, p, minmax_grid(w, p)))
    grid = clipped_grid(w, p, moments.diagonal())
    clipped = lost(fake_quantise(w, p, grid))
    moved = gptq(w, p, moments, grid)
    ours = lost(fake_quantise(moved, p, grid))
    assert ours < 0.6 * min(nearest, clipped)
    assert float((moved - fake_quantise(moved, p, grid)).abs().mean()) > 0  # between grid points, not on them


def test_uncorrelated_inputs_are_rounded_to_nearest_and_floats_left_alone():
    p = Precision.parse("w4a8g32")
    w = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(gptq(w, p, torch.eye(64)), w)
    assert gptq(w, Precision.parse("w16a16"), torch.eye(64)) is w


def test_dead_inputs_change_nothing():
    p = Precision.parse("w4a8g32")
    w = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    x = inputs(64)
    x[:, 5] = 0
    moved = gptq(w, p, x.T @ x / len(x))
    assert torch.isfinite(moved).all()
    assert torch.allclose(moved[:, 5], w[:, 5], atol=1e-4)
