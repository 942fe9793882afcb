"""GGUF types: each weight in the block type of llama.cpp that holds its grid, exactly where there is one.

    w4                                Q4_1    code * d + m, in blocks of 32: the same codes, m = -zero * d
    w4, every zero point 8            Q4_0    (code - 8) * d
    w8                                Q8_0    code * d, in blocks of 32: the same codes
    w3                                Q4_1    the same codes, in 4 bits
    w2, inputs a multiple of 256      Q2_K    scales and minima in 4 bits each: requantised
    w2, else                          Q4_1    the same codes, in 4 bits
    w16a16, fp8, inputs not in 32s    F16
    w32, norms                        F32

d and m are fp16 where a bundle has fp32 scales: weights change by at most 2^-11 of themselves (Q4_1: of m).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize
from torch import Tensor

from hwfit.kernels.pack import Array
from hwfit.kernels.quantise import Quantised, dequantise

BLOCK, SUPER = 32, 256
_TRIED = (15.0, 14.5, 14.0, 13.0, 12.0)  # what the largest scale of a Q2_K super-block becomes


@dataclass(frozen=True)
class Typed:
    """A `[n, k]` weight in rows of blocks: uint8 `[n, bytes]`, or fp32 or fp16 `[n, k]`."""

    data: Array
    type: Type

    def values(self) -> Array:
        """fp32 `[n, k]`, as llama.cpp reads them."""
        return dequantize(self.data, self.type)


def typed(weight: Tensor | Quantised) -> Typed:
    """The weight in its type."""
    if not isinstance(weight, Quantised):
        half = weight.dtype == torch.float16
        return Typed(weight.numpy() if half else weight.float().numpy(), Type.F16 if half else Type.F32)
    p, k = weight.precision, weight.shape[1]
    if k % BLOCK:
        return Typed(dequantise(weight).half().numpy(), Type.F16)
    if p.symmetric:
        return _q8_0(weight)
    if p.weight_bits == 2 and k % SUPER == 0:
        return _q2_k(weight)
    assert weight.grid.zeros is not None
    return _q4_0(weight) if bool((weight.grid.zeros == 8).all()) else _q4_1(weight)


def _q8_0(q: Quantised) -> Typed:
    """A block is fp16 d and 32 int8 codes."""
    n, k = q.shape
    codes = q.codes.numpy().reshape(n, k // BLOCK, BLOCK).view(np.uint8)
    return Typed(_rows(_half(_per_block(q, q.grid.scales)), codes), Type.Q8_0)


def _q4_1(q: Quantised) -> Typed:
    """A block is fp16 d, fp16 m and 16 bytes: code i in the low half of byte i, code i + 16 in the high one."""
    assert q.grid.zeros is not None
    scales = _per_block(q, q.grid.scales.half())  # m from the rounded d, so that weights near 0 stay there
    return Typed(_rows(_half(scales), _half(-_per_block(q, q.grid.zeros) * scales), _nibbles(q)), Type.Q4_1)


def _q4_0(q: Quantised) -> Typed:
    """A block is fp16 d and 16 bytes, as in Q4_1."""
    return Typed(_rows(_half(_per_block(q, q.grid.scales)), _nibbles(q)), Type.Q4_0)


def _q2_k(q: Quantised) -> Typed:
    """A super-block of 256 is 16 bytes (scale and minimum of each 16 codes, 4 bits each), 64 bytes of codes, fp16 d and
    dmin: code * d * scale - dmin * minimum. The d of least squared error among several is taken, and codes follow."""
    assert q.grid.zeros is not None
    n, k = q.shape
    x = dequantise(q).numpy().reshape(n * k // SUPER, 16, 16)  # [super-blocks, 16, 16]
    scales = _per_block(q, q.grid.scales, 16).reshape(-1, 16)
    minima = _per_block(q, q.grid.scales * q.grid.zeros, 16).reshape(-1, 16)
    best = np.full(len(x), np.inf)
    out = np.zeros((len(x), 84), np.uint8)
    for top in _TRIED:
        d, dmin = ((t.max(1, keepdims=True) / top).astype(np.float16).astype(np.float32) for t in (scales, minima))
        s, m = (_nearest(t, step, 15) for t, step in ((scales, d), (minima, dmin)))
        step, low = (d * s)[..., None], (dmin * m)[..., None]
        codes = _nearest(x + low, step, 3)
        error = np.square(codes * step - low - x).sum((1, 2))
        better = error < best
        fields = ((s + m * 16).astype(np.uint8), _quarters(codes.astype(np.uint8)), _half(d)[:, 0], _half(dmin)[:, 0])
        made = np.concatenate(fields, 1)
        out[better], best = made[better], np.minimum(error, best)
    return Typed(out.reshape(n, -1), Type.Q2_K)


def _nearest(x: Array, step: Array, top: int) -> Array:
    """Whole steps 0…top nearest to `x`; 0 where a step is 0."""
    return np.clip(np.rint(np.divide(x, step, out=np.zeros_like(x + step), where=step > 0)), 0, top)


def _quarters(codes: Array) -> Array:
    """2-bit codes `[super-blocks, 16, 16]` -> bytes `[super-blocks, 64]`: of each 128 codes, number 32 j + i goes to
    bits 2 j of byte i."""
    lanes = codes.reshape(len(codes), 2, 4, 32)
    return np.bitwise_or.reduce(lanes << np.array([0, 2, 4, 6], np.uint8)[:, None], axis=2).reshape(len(codes), 64)


def _per_block(q: Quantised, t: Tensor, block: int = BLOCK) -> Array:
    """`[n, groups]` -> fp32 `[n, k / block]`."""
    k = q.shape[1]
    return np.repeat(t.float().numpy(), k // block // t.shape[1], axis=1)


def _half(t: Array) -> Array:
    """`[..., blocks]` -> the bytes of its fp16 values, `[..., blocks, 2]`."""
    return t.astype("<f2")[..., None].view(np.uint8)


def _nibbles(q: Quantised) -> Array:
    """uint8 `[n, blocks, 16]`."""
    n, k = q.shape
    low, high = np.moveaxis(q.codes.numpy().reshape(n, k // BLOCK, 2, BLOCK // 2), 2, 0)
    return low | (high << np.uint8(4))


def _rows(*parts: Array) -> Array:
    """Block by block one part after another: `[n, blocks, ·]` each -> `[n, bytes]`."""
    joined = np.concatenate(parts, -1)
    return np.ascontiguousarray(joined.reshape(joined.shape[0], -1))
