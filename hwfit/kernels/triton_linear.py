"""Linears on a GPU: Triton kernels for packed integer weights, cuBLAS (through torch) for 16-bit ones.

    w = pack_gpu(quantise(weight, Precision.parse("w4a16g128")), torch.bfloat16)
    y = linear(x, w)                # picks the configuration: cached choice, else timed once, here and now

Importing this needs no triton and no GPU; calling `linear` on a packed weight does, or TRITON_INTERPRET=1.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch.nn.functional as F
from torch import Tensor

from hwfit.errors import HwfitError
from hwfit.kernels.triton_autotune import choose, chosen
from hwfit.kernels.triton_configs import Config, candidates, default_config
from hwfit.kernels.triton_pack import GpuWeight, dequantise_gpu, pack_fp8, pack_gpu, random_gpu_weight
from hwfit.precision import Precision

__all__ = [
    "Config",
    "GpuWeight",
    "candidates",
    "chosen",
    "default_config",
    "dequantise_gpu",
    "linear",
    "low_activations_why_not",
    "pack_fp8",
    "pack_gpu",
    "random_gpu_weight",
    "why_not",
]


def why_not(p: Precision, sm: int, k: int) -> str | None:
    """None if a linear of `k` inputs runs at `p` on compute capability `sm` (90 is 9.0); else why, and what does."""
    if p.weight_bits == 32:
        return "fp32 linears leave the tensor cores idle and nobody deploys them on a GPU; use w16a16"
    if p.weight_bits == 16:
        return None
    if sm < 80:
        return f"the kernels are compiled and checked for sm_80 and sm_90; this GPU is sm_{sm}; use w16a16"
    if p.weight_bits == 3:
        return (
            "3-bit codes do not fill bytes, so they would be stored in 4 bits and save nothing over w4a16 while losing "
            f"accuracy; use w4a16g{p.group} or w2a16g{p.group}"
        )
    if p.float8 and sm < 90:
        return f"e4m3 tensor cores are used from sm_90 on (H100, H200); this GPU is sm_{sm}; use w8a8"
    if p.act_bits < 8:
        return low_activations_why_not(p.act_bits)
    if p.group and k % p.group:
        return f"group size {p.group} of {p} does not divide the input width {k}"
    if k % 32:
        return f"the kernels read rows of 16 bytes or more: the input width {k} must be a multiple of 32"
    return None


def low_activations_why_not(bits: int) -> str:
    """Why there is no precision with activations of fewer than 8 bits (A4 and A2 of arXiv 2606.04063's space)."""
    return (
        f"no supported tensor core multiplies {bits}-bit integers (sm_90 dropped int4), so A{bits} would "
        "run on the int8 kernels exactly as fast as A8 and lose accuracy for nothing; use a8"
    )


def linear(x: Tensor, w: GpuWeight | Tensor, config: Config | None = None) -> Tensor:
    """`x[m, k] @ w[n, k].T -> [m, n]` in the type of `x` (fp16 or bf16), summed in fp32.

    A plain tensor goes to cuBLAS: the 16-bit baseline. Without `config`, the choice for this device and shape is
    looked up, or made by timing all candidates, which cannot happen while a CUDA graph is captured: call once before.
    A8 and fp8 quantise `x` token by token inside the call. A row of `x` with NaN or Inf gives a row that is not
    finite. Raises `HwfitError` for shapes and types that do not fit, and without triton or a GPU.
    """
    if isinstance(w, Tensor):
        return F.linear(x, w)
    _check(x, w)
    from hwfit.kernels.triton_launch import INTERPRETED, launch

    if not (x.is_cuda or INTERPRETED):
        raise HwfitError(
            "Triton kernels run on CUDA tensors; on the CPU only with TRITON_INTERPRET=1 set from the start"
        )
    if not x.shape[0]:
        return x.new_empty(0, w.n)
    x = x.contiguous()
    if config is None:
        config = default_config(x.shape[0], w.precision) if INTERPRETED else choose(x, w)
    return launch(x, w, config)


def _check(x: Tensor, w: GpuWeight) -> None:
    if x.ndim != 2 or x.shape[1] != w.k:
        raise HwfitError(
            f"activations are {tuple(x.shape)}; a {w.precision} weight of shape {w.shape} takes [m, {w.k}]"
        )
    if x.element_size() != 2 or not x.is_floating_point():
        raise HwfitError(f"activations are {x.dtype}; allowed: torch.bfloat16, torch.float16")
    if x.device != w.device:
        raise HwfitError(f"activations are on {x.device}, the weight is on {w.device}; move one")
    if find_spec("triton") is None:
        raise HwfitError("triton is not installed; pip install 'hwfit[gpu]'")
