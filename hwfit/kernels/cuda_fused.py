# pyright: reportMissingImports=false, reportCallIssue=false, reportArgumentType=false
"""Small Triton kernels for what eager torch would launch many kernels for: norm, SwiGLU, rotary, embedding.

Each computes in fp32 and rounds once. Import this module only where triton is installed; `cuda_ops` does so.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_HEADS = 8  # heads that one program rotates
_SWIGLU = 1024  # elements of one program


@triton.jit
def _add_norm_kernel(stream, branch, gain, out, width, eps, HAS_BRANCH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width
    columns = tl.arange(0, BLOCK)
    mask = columns < width
    x = tl.load(stream + row + columns, mask=mask, other=0.0).to(tl.float32)
    if HAS_BRANCH:
        x += tl.load(branch + row + columns, mask=mask, other=0.0).to(tl.float32)
        total = x.to(stream.dtype.element_ty)
        tl.store(stream + row + columns, total, mask=mask)
        x = total.to(tl.float32)
    scale = 1 / tl.sqrt(tl.sum(x * x, axis=0) / width + eps)
    g = tl.load(gain + columns, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row + columns, (x * scale * g).to(out.dtype.element_ty), mask=mask)


def add_norm(stream: Tensor, branch: Tensor | None, gain: Tensor, eps: float) -> Tensor:
    """`stream[m, k] += branch[m, k]` in place; returns RMSNorm of it times `gain[k]`."""
    m, k = stream.shape
    out = torch.empty_like(stream)
    block = triton.next_power_of_2(k)
    _add_norm_kernel[(m,)](
        stream,
        stream if branch is None else branch,
        gain,
        out,
        k,
        eps,
        HAS_BRANCH=branch is not None,
        BLOCK=block,
        num_warps=min(16, max(1, block // 256)),
    )
    return out


@triton.jit
def _swiglu_kernel(gate, up, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count
    g = tl.load(gate + at, mask=mask, other=0.0).to(tl.float32)
    u = tl.load(up + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + at, (g * tl.sigmoid(g) * u).to(out.dtype.element_ty), mask=mask)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """`silu(gate) * up`, elementwise."""
    out = torch.empty_like(gate)
    _swiglu_kernel[(triton.cdiv(out.numel(), _SWIGLU),)](gate, up, out, out.numel(), BLOCK=_SWIGLU)
    return out


@triton.jit
def _rotate(source, target, cos, sin, HALF: tl.constexpr, mask, half):
    """One `[heads, head size]` tile: the pairs (i, i + half) turned by their angles."""
    pair = tl.arange(0, HALF)[None, :]
    left = tl.load(source + pair, mask=mask, other=0.0).to(tl.float32)
    right = tl.load(source + half + pair, mask=mask, other=0.0).to(tl.float32)
    tl.store(target + pair, (left * cos - right * sin).to(target.dtype.element_ty), mask=mask)
    tl.store(target + half + pair, (right * cos + left * sin).to(target.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["start"])
def _rope_store_kernel(
    q,
    k,
    v,
    cos,
    sin,
    out,
    keys,
    values,
    heads,
    kv_heads,
    half,
    tokens,
    length,
    start,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    position = start + row % tokens
    cached = (row // tokens) * length + position  # row of the cache
    size = 2 * half
    q_parts = tl.cdiv(heads, HEADS)
    kv_parts = tl.cdiv(kv_heads, HEADS)
    lane = tl.arange(0, HALF)
    inside = lane < half
    c = tl.load(cos + position * half + lane, mask=inside, other=0.0)[None, :]
    s = tl.load(sin + position * half + lane, mask=inside, other=0.0)[None, :]
    if part < q_parts:
        head = part * HEADS + tl.arange(0, HEADS)
        at = (head * size)[:, None]
        mask = (head < heads)[:, None] & inside[None, :]
        _rotate(q + row * heads * size + at, out + row * heads * size + at, c, s, HALF, mask, half)
    elif part < q_parts + kv_parts:
        head = (part - q_parts) * HEADS + tl.arange(0, HEADS)
        at = (head * size)[:, None]
        mask = (head < kv_heads)[:, None] & inside[None, :]
        _rotate(k + row * kv_heads * size + at, keys + cached * kv_heads * size + at, c, s, HALF, mask, half)
    else:
        head = (part - q_parts - kv_parts) * HEADS + tl.arange(0, HEADS)
        mask = (head < kv_heads)[:, None] & inside[None, :]
        tile = (head * size)[:, None] + lane[None, :]
        source = v + row * kv_heads * size + tile
        target = values + cached * kv_heads * size + tile
        tl.store(target, tl.load(source, mask=mask, other=0.0), mask=mask)
        tl.store(target + half, tl.load(source + half, mask=mask, other=0.0), mask=mask)


def rope_store(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, start: int
) -> Tensor:
    """As `cuda_ops.rope_store`: the rotated `q[rows, heads * size]`; `k` rotated and `v` go to the cache."""
    batch, length, kv_heads, size = keys.shape
    rows, heads = q.shape[0], q.shape[1] // size
    out = torch.empty_like(q)
    parts = triton.cdiv(heads, _HEADS) + 2 * triton.cdiv(kv_heads, _HEADS)
    _rope_store_kernel[(rows, parts)](
        q,
        k,
        v,
        cos,
        sin,
        out,
        keys,
        values,
        heads,
        kv_heads,
        size // 2,
        rows // batch,
        length,
        start,
        HEADS=_HEADS,
        HALF=triton.next_power_of_2(size // 2),
        num_warps=2,
    )
    return out


@triton.jit
def _embed_kernel(
    codes,
    scales,
    zeros,
    ids,
    out,
    width,
    groups,
    group,
    BITS: tl.constexpr,
    ZEROS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < width
    token = tl.load(ids + row)
    code = tl.load(codes + token * (width * BITS // 8) + column * BITS // 8, mask=mask, other=0)
    if BITS < 8:
        code = (code.to(tl.int32) >> (column * BITS % 8)) & (2**BITS - 1)
    x = code.to(tl.float32)
    at = token * groups + column // group
    if ZEROS:
        x -= tl.load(zeros + at, mask=mask, other=0).to(tl.float32)
    x *= tl.load(scales + at, mask=mask, other=0.0)
    tl.store(out + row * width + column, x.to(out.dtype.element_ty), mask=mask)


def embed(codes: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows `ids[rows]` of a packed table, `(code - zero) * scale`, as `[rows, width]` of `dtype`."""
    width, groups, rows = codes.shape[1] * 8 // bits, scales.shape[1], ids.numel()
    out = torch.empty(rows, width, dtype=dtype, device=codes.device)
    block = min(1024, triton.next_power_of_2(width))
    _embed_kernel[(rows, triton.cdiv(width, block))](
        codes,
        scales,
        scales if zeros is None else zeros,
        ids,
        out,
        width,
        groups,
        width // groups,
        BITS=bits,
        ZEROS=zeros is not None,
        BLOCK=block,
    )
    return out
