"""Pack: integer codes to and from the byte layouts of ONNX Runtime's kernels. Every function has an exact inverse.

Codes narrower than a byte sit low bits first, so with 4 bits a byte is | code 1 | code 0 | and with 2 bits
| code 3 | code 2 | code 1 | code 0 |. Symmetric int8 codes are stored as uint8 with 128 added where a kernel wants
unsigned ones; its default zero point, 2^(bits - 1), takes that off again.

    MatMulNBits              one row per output channel, one blob per group of its inputs
        blob    uint8 [n, groups, group * bits / 8]
        scales  fp32  [n, groups]
        zeros   uint8 [n, ceil(groups * bits / 8)]     packed like codes along the row; absent when symmetric

    GatherBlockQuantized     the same bytes, with the row unbroken
        data    uint8 [n, k * bits / 8]

    DynamicQuantizeMatMul    transposed, one scale per output channel
        codes   int8  [k, n]
        scales  fp32  [n]
"""

from __future__ import annotations

import numpy as np
import torch

from hwfit.kernels.quantise import Grid, Quantised
from hwfit.precision import Precision

Array = np.ndarray
Arrays = dict[str, np.ndarray]


def pack_bits(codes: Array, bits: int) -> Array:
    """uint8 `[..., count]` of `bits`-bit codes -> uint8 `[..., ceil(count * bits / 8)]`; bits 2, 4 or 8."""
    per = 8 // bits
    if per == 1:
        return codes
    if pad := -codes.shape[-1] % per:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], pad), np.uint8)], -1)
    lanes = codes.reshape(*codes.shape[:-1], -1, per)  # [..., bytes, per]
    out = lanes[..., 0].copy()
    for i in range(1, per):
        out |= lanes[..., i] << np.uint8(i * bits)
    return out


def unpack_bits(packed: Array, bits: int, count: int) -> Array:
    """Inverse of `pack_bits`: the first `count` codes of every row."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    lanes = (packed[..., None] >> shifts) & np.uint8(2**bits - 1)
    return lanes.reshape(*packed.shape[:-1], -1)[..., :count]


def to_nbits(q: Quantised) -> Arrays:
    """`blob`, `scales` and, when asymmetric, `zeros` of MatMulNBits."""
    arrays = to_gather(q)
    n, groups = arrays["scales"].shape
    return {"blob": arrays.pop("data").reshape(n, groups, -1), **arrays}


def from_nbits(arrays: Arrays, p: Precision) -> Quantised:
    """Inverse of `to_nbits`."""
    blob = arrays["blob"]
    return from_gather({**arrays, "data": blob.reshape(blob.shape[0], -1)}, p)


def to_gather(q: Quantised) -> Arrays:
    """`data`, `scales` and, when asymmetric, `zeros` of GatherBlockQuantized."""
    bits = q.precision.weight_bits
    codes, zeros = q.codes.numpy(), q.grid.zeros
    unsigned = codes.view(np.uint8) ^ np.uint8(128) if q.precision.symmetric else codes  # int8 + 128, without widening
    arrays = {"data": pack_bits(unsigned, bits), "scales": q.grid.scales.numpy()}
    return arrays if zeros is None else {**arrays, "zeros": pack_bits(zeros.numpy().astype(np.uint8), bits)}


def from_gather(arrays: Arrays, p: Precision) -> Quantised:
    """Inverse of `to_gather`."""
    scales = arrays["scales"]
    groups = scales.shape[1]
    codes = unpack_bits(arrays["data"], p.weight_bits, arrays["data"].shape[1] * 8 // p.weight_bits)
    if p.symmetric:
        codes = (codes ^ np.uint8(128)).view(np.int8)
    zeros = None if p.symmetric else unpack_bits(arrays["zeros"], p.weight_bits, groups).astype(np.float32)
    grid = Grid(torch.from_numpy(scales), None if zeros is None else torch.from_numpy(zeros))
    return Quantised(torch.from_numpy(codes), grid, p)


def to_dynamic(q: Quantised) -> Arrays:
    """`codes` and `scales` of DynamicQuantizeMatMul (symmetric, one scale per output channel)."""
    return {"codes": np.ascontiguousarray(q.codes.numpy().T), "scales": q.grid.scales[:, 0].numpy()}


def from_dynamic(arrays: Arrays, p: Precision) -> Quantised:
    """Inverse of `to_dynamic`."""
    codes = torch.from_numpy(np.ascontiguousarray(arrays["codes"].T))
    return Quantised(codes, Grid(torch.from_numpy(arrays["scales"][:, None])), p)
