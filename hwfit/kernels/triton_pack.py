"""Pack: integer codes into the bytes that the Triton kernels read, on the weight's own device, and exactly back.

K runs along a row, as tensor cores want it of 8-bit operands (only 16-bit ones may be transposed on their way from
shared memory), and so that the threads of a warp read 512 consecutive bytes of one output channel.

    row of one output channel, cut into blocks of `per * chunk` inputs, per = 8 / bits codes a byte:

                block 0                                        block 1
        byte    0          1                chunk - 1          chunk
              ┌──────────┬──────────┬─────┬──────────────────┬─────────────
       lane 0 │ input 0  │ 1        │ ... │ chunk - 1        │ per * chunk        low bits
       lane 1 │ chunk    │ chunk + 1│ ... │ 2 * chunk - 1    │ ...
       ...    │ ...      │          │     │                  │                    high bits
              └──────────┴──────────┴─────┴──────────────────┴─────────────

So one lane of a block is a contiguous run of inputs inside a single group: a tile of bytes becomes `per` tiles of
codes with a shift and a mask each, no codes are interleaved, and a tile has one scale a row. chunk is 64, or 32 where
the group is 32 or blocks of 64 would need padding.

    codes    [n, row bytes]     uint8, zero-based: symmetric codes have 2^(bits - 1) added
                                int8 for 8-bit weights of the int8 path, float8_e4m3fn for fp8
    scales   [groups, n]        fp16 if every scale is exact enough in it, else fp32; [1, n] fp32 per channel
    zeros    [groups, n]        uint8, None when symmetric

Rows are padded to whole blocks with codes of value 0, and groups to those blocks with scales of 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hwfit.errors import HwfitError
from hwfit.kernels.quantise import TINY, Grid, Quantised, fp8_scales
from hwfit.precision import Precision

COUNTERS = 4096
"""Tiles that may be split over K in one call: each has a counter of the programs that are done with it."""

_FP16_NORMAL = 2.0**-14
_FP16_TOP = 65504.0


@dataclass(frozen=True, eq=False)
class GpuWeight:
    """A packed `[n, k]` weight. `counters` is int32 zeros, which kernels leave as they found them.

    Because of the counters, one weight must not be used on two streams at once.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    precision: Precision
    k: int
    chunk: int
    counters: Tensor

    @property
    def n(self) -> int:
        return self.codes.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        return self.n, self.k

    @property
    def per(self) -> int:
        """Codes a byte."""
        return 8 // self.precision.weight_bits

    @property
    def padded(self) -> int:
        """Inputs a row holds, padding included."""
        return self.codes.shape[1] * self.per

    @property
    def nbytes(self) -> int:
        """Bytes that one call reads: codes, scales and zero points."""
        return sum(t.nbytes for t in (self.codes, self.scales, self.zeros) if t is not None)

    @property
    def device(self) -> torch.device:
        return self.codes.device

    def clone(self) -> GpuWeight:
        """The same values in memory of their own."""
        zeros = None if self.zeros is None else self.zeros.clone()
        parts = self.codes.clone(), self.scales.clone(), zeros
        return GpuWeight(*parts, self.precision, self.k, self.chunk, torch.zeros_like(self.counters))


def chunk_size(bits: int, group: int | None, k: int) -> int:
    """Bytes of one block."""
    return 32 if group == 32 or k % (64 * 8 // bits) else 64


def pack_gpu(weight: Tensor | Quantised, dtype: torch.dtype) -> GpuWeight | Tensor:
    """A `[n, k]` weight as the kernels take it; a plain tensor is cast to `dtype`, the activations' type.

    int8 codes are symmetric, uint8 codes need zero points; both at any width, but for the int8 path of 8-bit weights,
    which are symmetric. Raises `HwfitError` for 3 bits and for codes that do not fit this.
    """
    if isinstance(weight, Tensor):
        return weight.to(dtype).contiguous()
    p, (n, k), grid = weight.precision, weight.shape, weight.grid
    if p.weight_bits not in (2, 4, 8):
        raise HwfitError(f"precision '{p}' has no packed layout on a GPU; allowed weight bits: 2, 4, 8")
    if (grid.zeros is None) != (weight.codes.dtype == torch.int8):
        raise HwfitError("uint8 codes need zero points; symmetric codes are int8 and have none")
    if p.weight_bits == 8 and p.act_bits == 8 and grid.zeros is not None:
        raise HwfitError(
            f"{p}: 8-bit codes minus zero points need 9 bits, int8 tensor cores take 8; use no zero points"
        )
    bits, chunk = p.weight_bits, chunk_size(p.weight_bits, p.group, k)
    per = 8 // bits
    half = 1 << (bits - 1)
    blank = k_padding(k, per * chunk)
    if bits == 8 and p.act_bits == 8:
        codes = torch.nn.functional.pad(weight.codes, (0, blank)).contiguous()
    else:
        unsigned = weight.codes.view(torch.uint8) + half if grid.zeros is None else weight.codes
        lanes = torch.nn.functional.pad(unsigned, (0, blank), value=half).view(n, -1, per, chunk)
        codes = torch.zeros_like(lanes[:, :, 0])
        for j in range(per):
            codes |= (lanes[:, :, j] & (2**bits - 1)) << (bits * j)
        codes = codes.view(n, -1)
    groups = -(-(k + blank) // p.group) if p.group else 1
    scales = _rows(grid.scales, groups).to(_scale_type(grid.scales, p))
    zeros = None if grid.zeros is None else _rows(grid.zeros, groups).to(torch.uint8)
    return GpuWeight(codes, scales, zeros, p, k, chunk, _counters(codes.device))


def unpack_gpu(w: GpuWeight) -> Quantised:
    """Inverse of `pack_gpu`, exact but for scales that were rounded to fp16 (`w.scales`)."""
    p, (n, k) = w.precision, w.shape
    groups = k // p.group if p.group else 1
    if w.codes.dtype == torch.int8:
        codes = w.codes[:, :k]
    else:
        shifts = torch.arange(w.per, device=w.device, dtype=torch.uint8)[:, None] * p.weight_bits
        lanes = (w.codes.view(n, -1, 1, w.chunk) >> shifts) & (2**p.weight_bits - 1)
        codes = lanes.view(n, -1)[:, :k]
        if w.zeros is None:
            codes = (codes - (1 << (p.weight_bits - 1))).view(torch.int8)
    zeros = None if w.zeros is None else w.zeros[:groups].T.float().contiguous()
    return Quantised(codes.contiguous(), Grid(w.scales[:groups].T.float().contiguous(), zeros), p)


def pack_fp8(w: Tensor) -> GpuWeight:
    """`w[n, k]` rounded to e4m3 with one scale per output channel, its largest weight at 448."""
    k = w.shape[1]
    chunk = chunk_size(8, None, k)
    w = w.detach().float()
    scales = fp8_scales(w)
    codes = torch.nn.functional.pad(w / scales, (0, k_padding(k, chunk))).to(torch.float8_e4m3fn)
    return GpuWeight(codes, scales.T.contiguous(), None, Precision.parse("fp8"), k, chunk, _counters(w.device))


def dequantise_gpu(w: GpuWeight) -> Tensor:
    """fp32 `[n, k]` that the kernels multiply by."""
    if w.precision.float8:
        return w.codes[:, : w.k].float() * w.scales.T
    q = unpack_gpu(w)
    group = w.precision.group or w.k
    scales = q.grid.scales.repeat_interleave(group, 1)
    zeros = 0.0 if q.grid.zeros is None else q.grid.zeros.repeat_interleave(group, 1)
    return (q.codes.float() - zeros) * scales


def random_gpu_weight(
    n: int, k: int, p: Precision, dtype: torch.dtype, device: torch.device | str, seed: int = 0
) -> GpuWeight | Tensor:
    """A random `[n, k]` weight of standard deviation 1 / sqrt(k), drawn on the device in its packed form.

    16-bit precisions give a plain tensor of `dtype`. No fp32 copy of an integer weight ever exists. Raises
    `HwfitError` for precisions without a layout.
    """
    meta = torch.device(device).type == "meta"
    generator = None if meta else torch.Generator(device).manual_seed(seed)
    if p.weight_bits >= 16 or p.float8:
        w = torch.randn(n, k, dtype=dtype, device=device, generator=generator).mul_(k**-0.5)
        return pack_fp8(w) if p.float8 else w
    if p.weight_bits == 3:
        raise HwfitError(f"precision '{p}' has no packed layout on a GPU; allowed weight bits: 2, 4, 8")
    per, chunk = 8 // p.weight_bits, chunk_size(p.weight_bits, p.group, k)
    padded = k + k_padding(k, per * chunk)
    codes = torch.randint(0, 256, (n, padded // per), dtype=torch.uint8, device=device, generator=generator)
    if p.weight_bits == 8 and p.act_bits == 8:
        codes = codes.view(torch.int8).clamp_(-127, 127)
    groups = -(-padded // p.group) if p.group else 1
    spread = 2**p.weight_bits / 12**0.5  # standard deviation of uniform codes
    scales = torch.full((groups, n), 1 / (spread * k**0.5), device=device)
    zeros = None
    if not p.symmetric:
        zeros = torch.full((groups, n), 1 << (p.weight_bits - 1), dtype=torch.uint8, device=device)
    scale_type = torch.float16 if p.group else torch.float32
    return GpuWeight(codes, scales.to(scale_type), zeros, p, k, chunk, _counters(codes.device))


def k_padding(k: int, block: int) -> int:
    """Inputs that fill the last block."""
    return -k % block


def _rows(grid: Tensor, groups: int) -> Tensor:
    """`[n, some groups]` -> contiguous `[groups, n]`, padded with 0."""
    return torch.nn.functional.pad(grid, (0, groups - grid.shape[1])).T.contiguous()


def _scale_type(scales: Tensor, p: Precision) -> torch.dtype:
    if p.group is None:
        return torch.float32
    exact = (scales >= _FP16_NORMAL) & (scales <= _FP16_TOP / 2**p.weight_bits)
    return torch.float16 if bool((exact | (scales <= TINY)).all()) else torch.float32


def _counters(device: torch.device) -> Tensor:
    return torch.zeros(COUNTERS, dtype=torch.int32, device=device)
