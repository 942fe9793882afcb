"""Quantisation against float64 references written here."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwfit.errors import HwfitError
from hwfit.kernels.quantise import (
    Grid,
    clipped_grid,
    dequantise,
    fake_quantise,
    fake_quantise_activations,
    minmax_grid,
    quantise,
)
from hwfit.precision import KNOWN, Precision

INTEGER = [name for name in KNOWN if not Precision.parse(name).is_float]
RUNS = ["w8a8", "w8a8g32", "w8a8g64", "w4a8g32", "w4a8g128", "w2a8g32", "w3a16g32"]


def weight(n: int, k: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(n, k, generator=generator) * 0.05
    w[:, ::11] *= 4  # outlier inputs
    return w


def reference(w: torch.Tensor, p: Precision, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Codes and dequantised weights in float64, one group at a time."""
    x, group = w.numpy().astype(np.float64), p.group or w.shape[1]
    codes, out = np.zeros(x.shape, int), np.zeros(x.shape)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            s = float(grid.scales[i, j // group])
            z = 0 if grid.zeros is None else int(grid.zeros[i, j // group])
            low, high = (-127, 127) if p.symmetric else (0, 2**p.weight_bits - 1)
            codes[i, j] = min(max(round(float(np.float32(x[i, j]) / np.float32(s))) + z, low), high)
            out[i, j] = (codes[i, j] - z) * s
    return codes, out


@pytest.mark.parametrize("name", RUNS)
def test_codes_and_values_match_the_float64_reference(name: str) -> None:
    p = Precision.parse(name)
    w = weight(5, 256)
    for grid in (minmax_grid(w, p), clipped_grid(w, p)):
        codes, values = reference(w, p, grid)
        q = quantise(w, p, grid)
        assert q.codes.dtype == (torch.int8 if p.symmetric else torch.uint8)
        assert np.array_equal(q.codes.numpy(), codes)
        np.testing.assert_allclose(dequantise(q).numpy(), values, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", INTEGER)
def test_fake_quantise_is_dequantise_of_quantise_bit_for_bit(name: str) -> None:
    p = Precision.parse(name)
    w = weight(450, 640)  # two chunks
    grid = clipped_grid(w, p)
    ours, exact = fake_quantise(w, p, grid), dequantise(quantise(w, p, grid))
    assert torch.equal(ours.view(torch.int32), exact.view(torch.int32))


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(RUNS),
    seed=st.integers(0, 2**20),
    scale=st.sampled_from([0.0, 1e-30, 1e-6, 1.0, 1e6]),
    shift=st.floats(-2, 2),
)
def test_minmax_clips_nothing_and_rounds_to_the_nearest(name: str, seed: int, scale: float, shift: float) -> None:
    p = Precision.parse(name)
    w = (weight(3, 128, seed) + shift) * scale
    grid = minmax_grid(w, p)
    assert bool(((grid.scales > 0) & grid.scales.isfinite()).all())
    if grid.zeros is not None:
        assert set(grid.zeros.unique().tolist()) <= set(range(2**p.weight_bits))
    step = grid.scales.repeat_interleave(p.group or 128, 1).double()
    error = (dequantise(quantise(w, p, grid)).double() - w.double()).abs()
    # half a step; a rounded zero point may shift an asymmetric range by another half
    assert bool((error <= step * (0.5 if p.symmetric else 1.0) * (1 + 1e-4) + 1e-12).all())


@pytest.mark.parametrize("name", RUNS)
def test_zero_is_exact(name: str) -> None:
    p = Precision.parse(name)
    w = weight(8, 256)
    w[:, 3::7] = 0
    assert bool((fake_quantise(w, p, clipped_grid(w, p))[:, 3::7] == 0).all())


def weighted_error(w: torch.Tensor, p: Precision, grid: Grid, energy: torch.Tensor) -> torch.Tensor:
    """Energy-weighted squared error of each group `[n, groups]`, float64."""
    d = (dequantise(quantise(w, p, grid)).double() - w.double()) ** 2 * energy.double()
    return d.view(w.shape[0], -1, p.group or w.shape[1]).sum(-1)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("with_energy", [False, True])
def test_clipping_never_loses_to_minmax_in_any_group(name: str, with_energy: bool) -> None:
    p = Precision.parse(name)
    w = weight(64, 512)
    energy = torch.rand(512, generator=torch.Generator().manual_seed(1)) ** 4 + 1e-4
    grid = clipped_grid(w, p, energy if with_energy else None)
    counted = energy if with_energy else torch.ones(512)
    ours, plain = weighted_error(w, p, grid, counted), weighted_error(w, p, minmax_grid(w, p), counted)
    assert bool((ours <= plain * (1 + 1e-5)).all())
    assert float(ours.sum()) < float(plain.sum())


@pytest.mark.parametrize(("name", "within"), [("w4a8g32", 1.06), ("w2a8g32", 1.03)])
def test_clipping_is_close_to_an_exhaustive_search(name: str, within: float) -> None:
    """Against every zero point and 400 scales for each group, in float64."""
    p = Precision.parse(name)
    top = 2**p.weight_bits - 1
    w = weight(12, 64)
    energy = torch.rand(64, generator=torch.Generator().manual_seed(2)) + 0.05
    x, e = w.view(-1, 32).double(), energy.double().view(1, 2, 32).expand(12, 2, 32).reshape(-1, 32)
    best = torch.full((24,), torch.inf, dtype=torch.float64)
    span = (x.amax(1) - x.amin(1)) / top
    for ratio in np.linspace(0.2, 1.3, 400):
        for zero in range(top + 1):
            s = (span * ratio)[:, None]
            d = ((torch.round(x / s) + zero).clamp(0, top) - zero) * s - x
            best = torch.minimum(best, (d**2 * e).sum(1))
    ours = weighted_error(w, p, clipped_grid(w, p, energy), energy)
    assert float(ours.sum()) <= within * float(best.sum())


def test_energy_steers_the_error_to_inputs_that_are_not_used() -> None:
    p = Precision.parse("w2a8g32")
    w = weight(64, 64)
    energy = torch.ones(64)
    energy[:16] = 1e-6
    plain, steered = (fake_quantise(w, p, clipped_grid(w, p, e)) - w for e in (None, energy))
    assert float(steered[:, 16:32].square().sum()) < 0.9 * float(plain[:, 16:32].square().sum())


def test_indivisible_groups_and_float_grids_are_refused() -> None:
    with pytest.raises(HwfitError, match=r"group size 64 of w4a8g64 does not divide the input width 96"):
        quantise(weight(2, 96), Precision.parse("w4a8g64"))
    with pytest.raises(HwfitError, match="w32"):
        minmax_grid(weight(2, 96), Precision.parse("w32"))


def test_float_precisions() -> None:
    w = weight(4, 32)
    assert fake_quantise(w, Precision.parse("w32")) is w
    assert torch.equal(fake_quantise(w, Precision.parse("w16a16")), w.half().float())
    assert fake_quantise_activations(w, Precision.parse("w4a16g32")) is w


def e4m3_values() -> np.ndarray:
    """Every finite e4m3 number, from the format: 4 exponent bits with a bias of 7, 3 of mantissa, subnormals at 0."""
    exponent, mantissa = np.divmod(np.arange(127), 8)  # the last code, 127, is NaN
    subnormal, normal = mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0)
    half = np.where(exponent == 0, subnormal, normal)
    return np.concatenate([-half[::-1], half])


@pytest.mark.parametrize("rounded", [fake_quantise, fake_quantise_activations])
def test_fp8_takes_the_nearest_number_under_one_scale_a_row(
    rounded: Callable[[torch.Tensor, Precision], torch.Tensor],
) -> None:
    size = torch.tensor([1e-3, 1.0, 50.0, 1.0, 1.0])[:, None]
    x = torch.randn(5, 96, generator=torch.Generator().manual_seed(0)) * size
    x[4] = 0
    out, values = rounded(x, Precision.parse("fp8")).double().numpy(), e4m3_values()
    assert (out[4] == 0).all()
    for row, got in zip(x[:4].double().numpy(), out[:4], strict=True):
        scale = np.abs(row).max() / 448
        nearest = np.abs(values[:, None] - row / scale).min(0)
        assert np.abs(np.abs(got - row) / scale - nearest).max() < 1e-4
        assert np.abs(got).max() == pytest.approx(np.abs(row).max(), rel=1e-6)


def test_block_activations_match_the_float64_reference() -> None:
    x = torch.randn(3, 7, 128, generator=torch.Generator().manual_seed(0))
    x[0, 0, :32] = 0
    out = fake_quantise_activations(x, Precision.parse("w4a8g32")).double().numpy()
    for row, block in np.ndindex(21, 4):
        values = x.double().numpy().reshape(21, 4, 32)[row, block]
        step = np.abs(values).max() / 127
        expected = np.round(values / step) * step if step else values * 0
        got = out.reshape(21, 4, 32)[row, block]
        assert np.abs(got - expected).max() <= 1e-6


def test_tensor_activations_have_one_range_a_sequence() -> None:
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0)) + 0.5
    x[1] *= 10
    out = fake_quantise_activations(x, Precision.parse("w8a8")).double().numpy()
    for i in range(2):
        values = x[i].double().numpy()
        step = (max(values.max(), 0) - min(values.min(), 0)) / 255
        zero = np.round(max(-values.min(), 0) / step)
        expected = (np.clip(np.round(values / step) + zero, 0, 255) - zero) * step
        assert np.abs(out[i] - expected).max() < 1e-5
    alone = fake_quantise_activations(x[1], Precision.parse("w8a8"))
    assert torch.equal(alone, torch.from_numpy(out[1]).float())
    assert torch.equal(fake_quantise_activations(torch.zeros(4, 8), Precision.parse("w8a8")), torch.zeros(4, 8))


@pytest.mark.parametrize(("name", "levels"), [("w4a2g32", 1), ("w8a4g32", 7), ("w4a8g32", 127)])
def test_activations_of_few_bits_are_rounded_to_as_many_levels(name: str, levels: int) -> None:
    """Against each group's peak divided into `levels` steps either way."""
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(2))
    got = fake_quantise_activations(x, Precision.parse(name))
    step = x.view(5, 2, 32).abs().amax(-1, keepdim=True) / levels
    assert torch.allclose(got.view(5, 2, 32), (x.view(5, 2, 32) / step).round() * step, atol=1e-5)
