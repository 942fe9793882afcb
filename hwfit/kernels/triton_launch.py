"""Launch: one linear at one configuration. Shapes and precisions are checked by `triton_linear`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from hwfit.errors import HwfitError
from hwfit.kernels.quantise import FP8_TOP
from hwfit.kernels.triton_configs import Config, step_bytes
from hwfit.kernels.triton_fp8 import fp8_dot
from hwfit.kernels.triton_int8 import int8_dot, quantise_rows, rescale
from hwfit.kernels.triton_pack import COUNTERS, GpuWeight
from hwfit.kernels.triton_weight_only import dequantise_rows, weight_only_dot, weight_only_skinny

INTERPRETED = isinstance(quantise_rows, InterpretedFunction) and isinstance(tl.zeros, InterpretedFunction)
"""Kernels run on CPU tensors, in Python: TRITON_INTERPRET=1 was set before triton was first imported."""

Kernel = Any
PLAIN = Config("dense")  # four warps, no pipeline


@dataclass(frozen=True)
class Launch:
    """One kernel as it is started: what a compiler needs to know of it, and no more."""

    kernel: Kernel
    arguments: tuple[Tensor | int, ...]
    constants: dict[str, Any]
    config: Config


_recorded: list[Launch] | None = None
_compiling = False


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Inside, kernels are listed instead of run, so that tensors may be on the `meta` device."""
    global _recorded
    _recorded = launches = []
    try:
        yield launches
    finally:
        _recorded = None


@contextmanager
def compiling() -> Iterator[None]:
    """Inside, kernels are compiled on all processor cores at once instead of run; what does not compile is passed over.
    Library calls run as ever."""
    global _compiling
    with ThreadPoolExecutor(os.cpu_count()) as pool, triton.AsyncCompileMode(pool, ignore_errors=True):
        _compiling = True
        try:
            yield
        finally:
            _compiling = False


def launch(x: Tensor, w: GpuWeight, config: Config) -> Tensor:
    """`x[m, k] -> [m, n]`. Raises `HwfitError` for a configuration that cannot run this linear."""
    p = w.precision
    if p.float8:
        return _fp8(x, w, config)
    if p.act_bits == 8:
        return _library(x, w) if config.variant == "library" else _int8(x, w, config)
    match config.variant:
        case "skinny":
            return _skinny(x, w, config)
        case "dense":
            return F.linear(x, dense(w, x.dtype))
    return _weight_only(x, w, config)


def quantised_rows(x: Tensor, padded: int, float8: bool = False) -> tuple[Tensor, Tensor]:
    """`x[m, k]` as codes `[m, padded]` (int8, or e4m3) and fp32 scales `[m]`."""
    m, k = x.shape
    codes = torch.empty(m, padded, dtype=torch.float8_e4m3fn if float8 else torch.int8, device=x.device)
    scales = torch.empty(m, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(padded)
    sizes: dict[str, Any] = {"TOP": FP8_TOP if float8 else 127, "EXACT": INTERPRETED and float8, "BK": block}
    _run(quantise_rows, (m,), (x, codes, scales, k, padded), sizes, Config("dense", warps=rows_warps(padded)))
    return codes, scales


def rows_warps(padded: int) -> int:
    """Warps of `quantise_rows`: at most 64 elements a thread up to 32,768 of them."""
    return min(16, max(4, int(triton.next_power_of_2(padded)) // 1024))


def dense(w: GpuWeight, dtype: torch.dtype) -> Tensor:
    """The dequantised weight `[n, k]` in 16 bits."""
    out = torch.empty(w.n, w.k, dtype=dtype, device=w.device)
    blocks = w.codes.shape[1] // w.chunk
    grid = (-(-w.n // 32), -(-blocks // 2))
    _run(dequantise_rows, grid, (*_stored(w), out, w.n, w.k, blocks), {**_layout(w), "BN": 32, "BB": 2})
    return out


def _skinny(x: Tensor, w: GpuWeight, c: Config) -> Tensor:
    y, work, grid = _output(x, w, c, _tiles(x, w, c))
    blocks = w.codes.shape[1] // w.chunk
    arguments = (x, *_stored(w), y, work, w.counters, x.shape[0], w.n, w.k, blocks, c.split)
    modes = {"EVEN": w.padded == w.k and blocks % c.warps == 0, "ASM": not INTERPRETED}
    sizes = {"BM": c.bm, "BN": c.bn, "WARPS": c.warps}
    _run(weight_only_skinny, grid, arguments, {**_layout(w), **modes, **sizes}, c)
    return y


def _weight_only(x: Tensor, w: GpuWeight, c: Config) -> Tensor:
    y, work, grid = _output(x, w, c, _tiles(x, w, c))
    blocks = w.codes.shape[1] // w.chunk
    arguments = (x, *_stored(w), y, work, w.counters, x.shape[0], w.n, w.k, blocks, c.split)
    modes = {"EVEN_K": w.padded == w.k, "ASM": not INTERPRETED, "SCALE_AFTER": scale_after(w.scales.dtype, c)}
    _run(weight_only_dot, grid, arguments, {**_layout(w), **modes, "BM": c.bm, "BN": c.bn}, c)
    return y


def scale_after(scales: torch.dtype, c: Config) -> bool:
    """Whether sums are scaled, not weights: always where the scales do not fit fp16."""
    return c.bm <= 32 or scales == torch.float32


def _int8(x: Tensor, w: GpuWeight, c: Config) -> Tensor:
    y, work, grid = _output(x, w, c, _tiles(x, w, c))
    codes, row_scales = quantised_rows(x, w.padded)
    step = step_bytes(w.precision, w.k)
    arguments = (
        codes,
        row_scales,
        *_stored(w),
        y,
        work,
        w.counters,
        x.shape[0],
        w.n,
        w.codes.shape[1] // step,
        c.split,
    )
    constants = {**_layout(w), "CHUNK": step, "ASM": not INTERPRETED, "BM": c.bm, "BN": c.bn}
    _run(int8_dot, grid, arguments, constants, c)
    return y


def _fp8(x: Tensor, w: GpuWeight, c: Config) -> Tensor:
    y, work, grid = _output(x, w, c, _tiles(x, w, c))
    codes, row_scales = quantised_rows(x, w.padded, float8=True)
    step = step_bytes(w.precision, w.k)
    arguments = (codes, row_scales, w.codes, w.scales, y, work, w.counters, x.shape[0], w.n, w.padded // step, c.split)
    _run(fp8_dot, grid, arguments, {"BM": c.bm, "BN": c.bn, "BK": step}, c)
    return y


def _library(x: Tensor, w: GpuWeight) -> Tensor:
    """cuBLAS's int8 product; it wants more than 16 rows and `n` a multiple of 8."""
    m, n = x.shape[0], w.n
    if w.precision.group or w.precision.weight_bits != 8 or m <= 16 or n % 8:
        raise HwfitError(
            f"configuration 'library' runs w8a8 on more than 16 rows, n a multiple of 8; got {w.precision}"
        )
    codes, row_scales = quantised_rows(x, w.padded)
    sums = torch._int_mm(codes, w.codes.T)
    y = torch.empty(m, n, dtype=x.dtype, device=x.device)
    grid = (-(-m // 32), -(-n // 128))
    _run(rescale, grid, (sums, row_scales, w.scales, y, m, n), {"BM": 32, "BN": 128})
    return y


def _output(x: Tensor, w: GpuWeight, c: Config, tiles: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """`y`, the workspace of partial sums, and the grid."""
    if c.split > 1 and tiles > COUNTERS:
        raise HwfitError(f"configuration '{c}' splits {tiles} tiles; at most {COUNTERS} can be")
    m = x.shape[0]
    y = torch.empty(m, w.n, dtype=x.dtype, device=x.device)
    work = torch.empty(c.split * m * w.n if c.split > 1 else 1, dtype=torch.float32, device=x.device)
    return y, work, (tiles, c.split)


def _tiles(x: Tensor, w: GpuWeight, c: Config) -> int:
    if c.variant not in ("dot", "skinny") or not c.bm or not c.bn:
        raise HwfitError(f"configuration '{c}' does not run {w.precision} with {x.shape[0]} rows; use variant 'dot'")
    return -(-x.shape[0] // c.bm) * -(-w.n // c.bn)


def _stored(w: GpuWeight) -> tuple[Tensor, Tensor, Tensor]:
    return w.codes, w.scales, w.counters if w.zeros is None else w.zeros


def _layout(w: GpuWeight) -> dict[str, int | bool]:
    p = w.precision
    return {"BITS": p.weight_bits, "CHUNK": w.chunk, "GROUP": p.group or 0, "HAS_ZERO": w.zeros is not None}


def _run(
    kernel: Kernel,
    grid: tuple[int, ...],
    arguments: tuple[Tensor | int, ...],
    constants: dict[str, Any],
    config: Config = PLAIN,
) -> None:
    if _recorded is not None:
        _recorded.append(Launch(kernel, arguments, constants, config))
        return
    limit = {"maxnreg": config.registers} if config.registers else {}
    start = partial(kernel.warmup, grid=grid) if _compiling else kernel[grid]
    start(*arguments, **constants, num_warps=config.warps, num_stages=config.stages, **limit)
