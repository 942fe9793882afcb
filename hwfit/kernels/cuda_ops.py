"""Everything in a Llama block that is no linear, on torch tensors: embedding, RMSNorm, rotary, attention, SwiGLU.

On a GPU each is one small Triton kernel (`cuda_fused`) but for attention, which is torch's scaled dot product (flash)
over a static key/value cache. On CPU tensors the same functions are plain torch: that is what tests compare.

    cache      keys, values  [batch, length, kv heads, head size]    a new token is one contiguous row
    decode     the queries that share a KV head stand in for query positions, so keys are read once a KV head:
               q [batch, kv heads, queries a KV head, head size] x keys [batch, kv heads, context, head size]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hwfit.kernels.pack import pack_bits
from hwfit.kernels.quantise import Quantised
from hwfit.rotary import Rotary

ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Pinned, first that can: the fastest one torch would choose depends on its version and on the shape."""


@dataclass(frozen=True)
class KvCache:
    """Keys and values of one block, `[batch, length, kv_heads, head_size]` each."""

    keys: Tensor
    values: Tensor

    @classmethod
    def empty(
        cls, batch: int, length: int, kv_heads: int, head_size: int, dtype: torch.dtype, device: torch.device
    ) -> KvCache:
        keys, values = (torch.zeros(batch, length, kv_heads, head_size, dtype=dtype, device=device) for _ in "kv")
        return cls(keys, values)

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes


@dataclass(frozen=True)
class PackedTable:
    """An integer embedding: `codes` uint8 `[vocab, hidden * bits / 8]` (int8 when symmetric), low bits first;
    fp32 `scales` and, when asymmetric, uint8 `zeros`, both `[vocab, groups]`."""

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    bits: int

    @classmethod
    def of(cls, q: Quantised, device: torch.device) -> PackedTable:
        """Packed on the host, then moved. 2, 4 or 8 bits."""
        p, zeros = q.precision, q.grid.zeros
        codes = q.codes if p.symmetric else torch.from_numpy(pack_bits(q.codes.cpu().numpy(), p.weight_bits))
        return cls(
            codes.contiguous().to(device),
            q.grid.scales.to(device),
            None if zeros is None else zeros.to(torch.uint8).to(device),
            p.weight_bits,
        )

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes + (0 if self.zeros is None else self.zeros.nbytes)


def embed(table: Tensor | PackedTable, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows `ids[rows]` (int64) of a `[vocab, hidden]` table, as `[rows, hidden]` of `dtype`."""
    if isinstance(table, Tensor):
        return F.embedding(ids, table).to(dtype)
    if _fused(table.codes):
        from hwfit.kernels import cuda_fused

        return cuda_fused.embed(table.codes, table.scales, table.zeros, table.bits, ids, dtype)
    codes = table.codes[ids]  # [rows, bytes]
    if table.bits < 8:
        shifts = torch.arange(0, 8, table.bits, dtype=torch.uint8, device=codes.device)
        codes = (codes[..., None] >> shifts & (2**table.bits - 1)).flatten(1)
    groups = codes.float().unflatten(1, (table.scales.shape[1], -1))  # [rows, groups, group]
    if table.zeros is not None:
        groups = groups - table.zeros[ids].float()[..., None]
    return (groups * table.scales[ids][..., None]).flatten(1).to(dtype)


def add_norm(stream: Tensor, branch: Tensor | None, gain: Tensor, eps: float) -> Tensor:
    """`stream[m, k] += branch[m, k]` in place, rounded to its type; returns RMSNorm of it times `gain[k]`."""
    if _fused(stream):
        from hwfit.kernels import cuda_fused

        return cuda_fused.add_norm(stream, branch, gain, eps)
    if branch is not None:
        stream += branch
    x = stream.float() if stream.element_size() < 4 else stream
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * gain).to(stream.dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """`silu(gate) * up` of two `[m, k]`, rounded once."""
    if _fused(gate):
        from hwfit.kernels import cuda_fused

        return cuda_fused.swiglu(gate, up)
    wide = torch.promote_types(gate.dtype, torch.float32)
    return (F.silu(gate.to(wide)) * up.to(wide)).to(gate.dtype)


def rotary_tables(rotary: Rotary, head_size: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin fp32 `[length, head_size / 2]` on the device."""
    cos, sin = (torch.from_numpy(table).to(device) for table in rotary.tables(head_size, length))
    return cos, sin


def rope_store(q: Tensor, k: Tensor, v: Tensor, rotary: tuple[Tensor, Tensor], cache: KvCache, start: int) -> Tensor:
    """Rotate `q[rows, heads * size]` and `k[rows, kv_heads * size]`; put `k` and `v` into the cache; return `q`.

    Rows are `batch` sequences of `rows / batch` new tokens each, standing at positions `start` and on.
    """
    cos, sin = rotary
    if _fused(q):
        from hwfit.kernels import cuda_fused

        return cuda_fused.rope_store(q, k, v, cos, sin, cache.keys, cache.values, start)
    batch, _, kv_heads, size = cache.keys.shape
    tokens = q.shape[0] // batch
    place = slice(start, start + tokens)
    cos, sin = cos[place, None], sin[place, None]  # [tokens, 1, size / 2]
    cache.keys[:, place] = _rotated(k.view(batch, tokens, kv_heads, size), cos, sin)
    cache.values[:, place] = v.view(batch, tokens, kv_heads, size)
    return _rotated(q.view(batch, tokens, -1, size), cos, sin).view(q.shape)


def attend(q: Tensor, cache: KvCache, context: int) -> Tensor:
    """Causal attention of rotated `q[rows, heads * size]` to the first `context` cached tokens, `[rows, heads * size]`.

    Each sequence has one new token, the last of the context, or all of them (`rows = batch * context`).
    """
    batch, _, kv_heads, size = cache.keys.shape
    tokens = q.shape[0] // batch
    keys, values = (t[:, :context].transpose(1, 2) for t in (cache.keys, cache.values))  # [batch, kv, context, size]
    with sdpa_kernel(ATTENTION, set_priority=True):
        if tokens == 1:
            shared = q.view(batch, kv_heads, -1, size)  # [batch, kv, queries a KV head, size]
            return F.scaled_dot_product_attention(shared, keys, values).reshape(q.shape)
        assert tokens == context, "new tokens either fill the context or are one a sequence"
        y = q.view(batch, tokens, -1, size).transpose(1, 2)  # [batch, heads, tokens, size]
        y = F.scaled_dot_product_attention(y, keys, values, is_causal=True, enable_gqa=True)
        return y.transpose(1, 2).reshape(q.shape)


def _fused(x: Tensor) -> bool:
    return x.is_cuda


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x[batch, tokens, heads, size]`; pairs (i, i + size / 2) turned by their angles, in fp32 or wider."""
    left, right = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1).to(x.dtype)
