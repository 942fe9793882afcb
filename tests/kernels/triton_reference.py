"""Random packed weights with what they stand for, in float64 and without the code under test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hwfit.kernels.quantise import Grid, Quantised
from hwfit.kernels.triton_pack import GpuWeight, pack_gpu
from hwfit.precision import Precision


@dataclass(frozen=True)
class Case:
    quantised: Quantised
    packed: GpuWeight
    dense: np.ndarray  # float64 [n, k]


def random_quantised(p: Precision, n: int, k: int, seed: int, symmetric: bool, scale: float = 0.02) -> Quantised:
    """Random codes; scales (some of them 0) exact in fp16, spread over a factor of 4 around `scale`."""
    rng = np.random.default_rng(seed)
    groups = k // p.group if p.group else 1
    scales = (scale * 2.0 ** rng.uniform(-1, 1, (n, groups))).astype(np.float16).astype(np.float32)
    scales[rng.random(scales.shape) < 0.05] = 0
    half = 2 ** (p.weight_bits - 1)
    if symmetric:
        codes = rng.integers(-half, half, (n, k)).astype(np.int8)
        return Quantised(torch.from_numpy(codes), Grid(torch.from_numpy(scales)), p)
    codes = rng.integers(0, 2 * half, (n, k)).astype(np.uint8)
    zeros = rng.integers(0, 2 * half, (n, groups)).astype(np.float32)
    return Quantised(torch.from_numpy(codes), Grid(torch.from_numpy(scales), torch.from_numpy(zeros)), p)


def dense_of(q: Quantised) -> np.ndarray:
    """float64 `[n, k]`, element by element of (code - zero) * scale."""
    k = q.codes.shape[1]
    column = np.arange(k) // (q.precision.group or k)
    codes, scales = q.codes.numpy().astype(np.float64), q.grid.scales.numpy().astype(np.float64)
    zeros = np.zeros_like(scales) if q.grid.zeros is None else q.grid.zeros.numpy().astype(np.float64)
    return (codes - zeros[:, column]) * scales[:, column]


def case(name: str, n: int, k: int, seed: int = 0, symmetric: bool | None = None, scale: float = 0.02) -> Case:
    p = Precision.parse(name)
    q = random_quantised(p, n, k, seed, p.symmetric if symmetric is None else symmetric, scale)
    packed = pack_gpu(q, torch.float16)
    assert isinstance(packed, GpuWeight)
    return Case(q, packed, dense_of(q))


def activations(m: int, k: int, seed: int = 1, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    """Normal, with an outlier column and a row of zeros where there are several rows."""
    x = torch.randn(m, k, generator=torch.Generator().manual_seed(seed))
    x[:, k // 3] *= 20
    if m > 2:
        x[2] = 0
    return x.to(dtype)


def rounded_int8(x: torch.Tensor) -> np.ndarray:
    """float64 values of `x` after per-token symmetric int8 rounding (fp32 arithmetic, half to even)."""
    v = x.float().numpy()
    peak = np.maximum(np.abs(v).max(1, keepdims=True), np.float32(1e-30))
    codes = np.rint(v * (np.float32(127) / peak))
    return codes.astype(np.float64) * (peak / np.float32(127)).astype(np.float64)


def rounded_e4m3(x: torch.Tensor) -> np.ndarray:
    """float64 values of `x` after per-token e4m3 rounding, by nearest neighbour in the list of all e4m3 values."""
    v = x.float().numpy()
    peak = np.maximum(np.abs(v).max(1, keepdims=True), np.float32(1e-30))
    scaled = (v * (np.float32(448) / peak)).astype(np.float64)
    exponents = np.arange(-6, 9)
    grid = np.concatenate([np.arange(8) * 2.0**-9, *((1 + np.arange(8) / 8) * 2.0**e for e in exponents)])
    grid = grid[grid <= 448]
    above = np.clip(np.searchsorted(grid, np.abs(scaled)), 1, len(grid) - 1)
    low, high = grid[above - 1], grid[above]
    middle = (low + high) / 2
    even_is_low = (above - 1) % 2 == 0  # neighbours alternate between even and odd mantissas
    up = (np.abs(scaled) > middle) | ((np.abs(scaled) == middle) & ~even_is_low)
    return np.sign(scaled) * np.where(up, high, low) * (peak / np.float32(448)).astype(np.float64)


def relative_error(got: torch.Tensor, expected: np.ndarray, x: np.ndarray, dense: np.ndarray) -> float:
    """Largest |difference| over the rms of what the sum of products would be with random signs, output by output."""
    spread = np.sqrt((x**2) @ (dense**2).T)
    return float((np.abs(got.double().numpy() - expected) / np.maximum(spread, 1e-30)).max())
