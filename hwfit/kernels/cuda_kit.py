"""Kit: how linears and embeddings are stored and run on a device, behind one seam.

`TritonKit` is a GPU: packed integer weights and the Triton kernels, cuBLAS for 16 bits. `DenseKit` dequantises
everything and multiplies plainly on any torch device: chains and whole models are tested with it on CPU tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from hwfit.errors import HwfitError
from hwfit.kernels.cuda_ops import PackedTable
from hwfit.kernels.quantise import Grid, Quantised, dequantise
from hwfit.precision import Precision

if TYPE_CHECKING:
    from hwfit.kernels.triton_pack import GpuWeight

Weight = Any
"""What a kit's `pack` and `random` return and its `linear` takes: a tensor or a `GpuWeight`; both have `nbytes`."""


class Kit(Protocol):
    """Linears of one device at one activation type."""

    device: torch.device
    dtype: torch.dtype

    def why_not(self, p: Precision, k: int) -> str | None:
        """None if a linear of `k` inputs runs at `p`; else the reason in words, with what to use instead."""
        ...

    def pack(self, w: Tensor | Quantised, p: Precision) -> Weight:
        """A `[n, k]` weight at `p` as this device keeps it; plain tensors are 16-bit or fp8 ones."""
        ...

    def random(self, n: int, k: int, p: Precision, seed: int) -> Weight:
        """A random `[n, k]` weight of sane size, made on the device: no fp32 copy of it ever exists."""
        ...

    def linear(self, x: Tensor, w: Weight) -> Tensor:
        """`x[m, k] -> [m, n]`."""
        ...

    def weight_bytes(self, p: Precision, n: int, k: int) -> int:
        """Bytes that one call reads of a `[n, k]` weight."""
        ...

    def kernel(self, p: Precision, m: int, n: int, k: int) -> str:
        """What runs it, with the choices that autotuning made."""
        ...


class TritonKit:
    """Packed weights and Triton kernels on the current GPU, `sm` its compute capability as one number (90)."""

    def __init__(self, device: torch.device, sm: int, dtype: torch.dtype = torch.bfloat16):
        self.device, self.sm, self.dtype = device, sm, dtype

    def why_not(self, p: Precision, k: int) -> str | None:
        from hwfit.kernels.triton_linear import why_not

        return why_not(p, self.sm, k)

    def pack(self, w: Tensor | Quantised, p: Precision) -> Weight:
        from hwfit.kernels.triton_pack import pack_fp8, pack_gpu

        if isinstance(w, Tensor):
            w = w.to(self.device)
            return pack_fp8(w) if p.float8 else w.to(self.dtype).contiguous()
        zeros = w.grid.zeros
        grid = Grid(w.grid.scales.to(self.device), None if zeros is None else zeros.to(self.device))
        return pack_gpu(Quantised(w.codes.to(self.device), grid, w.precision), self.dtype)

    def random(self, n: int, k: int, p: Precision, seed: int) -> Weight:
        from hwfit.kernels.triton_pack import random_gpu_weight

        return random_gpu_weight(n, k, p, self.dtype, self.device, seed)

    def linear(self, x: Tensor, w: Tensor | GpuWeight) -> Tensor:
        from hwfit.kernels.triton_linear import linear

        return linear(x, w)

    def weight_bytes(self, p: Precision, n: int, k: int) -> int:
        """As `random` packs it: fp16 scales of groups, fp32 ones of channels, a byte a zero point."""
        from hwfit.kernels.triton_pack import chunk_size, k_padding

        if p.weight_bits >= 16:
            return n * k * self.dtype.itemsize
        per = 8 // p.weight_bits
        padded = k + k_padding(k, per * chunk_size(p.weight_bits, p.group, k))
        groups = -(-padded // p.group) if p.group else 1
        grid = (2 if p.group else 4) + (0 if p.symmetric else 1)
        return n * padded // per + n * groups * grid

    def kernel(self, p: Precision, m: int, n: int, k: int) -> str:
        from hwfit.kernels.triton_linear import chosen

        return "cublas" if p.weight_bits >= 16 else f"triton {chosen(p, m, n, k, self.dtype)}"


class DenseKit:
    """Plain matrix products with dequantised weights; activations are never rounded."""

    def __init__(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        self.device, self.dtype = torch.device(device), dtype

    def why_not(self, p: Precision, k: int) -> str | None:
        return None

    def pack(self, w: Tensor | Quantised, p: Precision) -> Tensor:
        return (dequantise(w) if isinstance(w, Quantised) else w).to(self.device, self.dtype)

    def random(self, n: int, k: int, p: Precision, seed: int) -> Tensor:
        return random_dense(n, k, self.dtype, self.device, seed)

    def linear(self, x: Tensor, w: Tensor) -> Tensor:
        return F.linear(x, w)

    def weight_bytes(self, p: Precision, n: int, k: int) -> int:
        return p.weight_bytes(n, k)

    def kernel(self, p: Precision, m: int, n: int, k: int) -> str:
        return "dense"


def random_dense(n: int, k: int, dtype: torch.dtype, device: torch.device, seed: int) -> Tensor:
    """Normal `[n, k]` with standard deviation 1 / sqrt(k), drawn in its own type on the device."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(n, k, dtype=dtype, device=device, generator=generator).mul_(k**-0.5)


def embed_why_not(p: Precision) -> str | None:
    """Why an embedding table at `p` is not gathered on a GPU, or None."""
    if p.weight_bits in (2, 4, 8, 16, 32) and not p.float8:
        return None
    return f"tables of {p} are not gathered; use w16a16, or w8a8 or w4a8 in groups"


def pack_table(w: Tensor | Quantised, kit: Kit) -> Tensor | PackedTable:
    """A `[vocab, hidden]` embedding as the kit's device keeps it; fp32 tables stay fp32."""
    if isinstance(w, Quantised):
        return PackedTable.of(w, kit.device)
    return w.to(kit.device, kit.dtype if w.element_size() == 2 else w.dtype)


def random_table(n: int, k: int, p: Precision, kit: Kit, seed: int) -> Tensor | PackedTable:
    """A random table at `p`, made on the device. Raises `HwfitError` for what `embed_why_not` refuses."""
    if reason := embed_why_not(p):
        raise HwfitError(f"embed: {reason}")
    if p.is_float:
        return random_dense(n, k, torch.float32 if p.weight_bits == 32 else kit.dtype, kit.device, seed)
    generator = torch.Generator(kit.device).manual_seed(seed)
    codes = torch.randint(
        0, 256, (n, k * p.weight_bits // 8), dtype=torch.uint8, device=kit.device, generator=generator
    )
    groups, steps = k // p.group if p.group else 1, 2**p.weight_bits
    scales = torch.full((n, groups), 12**0.5 / steps / k**0.5, device=kit.device)
    zeros = None if p.symmetric else torch.full((n, groups), steps // 2, dtype=torch.uint8, device=kit.device)
    return PackedTable(codes.view(torch.int8) if p.symmetric else codes, scales, zeros, p.weight_bits)
