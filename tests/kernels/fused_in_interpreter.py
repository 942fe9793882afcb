"""Run with TRITON_INTERPRET=1: every kernel of `cuda_fused` against float64; prints case -> relative error."""

from __future__ import annotations

import json

import numpy as np
import torch
from cuda_reference import dequantised_rows, relative, rms_norm, rotate, silu

from hwfit.kernels import cuda_fused, cuda_ops
from hwfit.kernels.cuda_ops import PackedTable
from hwfit.kernels.quantise import quantise
from hwfit.precision import Precision
from hwfit.rotary import Rotary

CPU = torch.device("cpu")
errors: dict[str, float] = {}


def draw(*shape: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def wide(x: torch.Tensor) -> np.ndarray:
    return x.double().numpy()


for dtype in (torch.float32, torch.float16):
    kind = str(dtype).removeprefix("torch.")
    for m, k in ((1, 64), (3, 100), (2, 576)):
        stream, branch, gain = (draw(m, k, seed=i, dtype=dtype) for i in range(3))
        gain = gain[0].contiguous()
        errors[f"norm {kind} {m} {k}"] = relative(
            wide(cuda_fused.add_norm(stream, None, gain, 1e-5)), rms_norm(wide(stream), wide(gain), 1e-5)
        )
        total = wide(stream) + wide(branch)
        got = cuda_fused.add_norm(stream, branch, gain, 1e-5)
        errors[f"add_norm {kind} {m} {k}"] = max(
            relative(wide(stream), total), relative(wide(got), rms_norm(wide(stream), wide(gain), 1e-5))
        )
        gate, up = 3 * draw(m, k, seed=3, dtype=dtype), draw(m, k, seed=4, dtype=dtype)
        errors[f"swiglu {kind} {m} {k}"] = relative(wide(cuda_fused.swiglu(gate, up)), silu(wide(gate)) * wide(up))
    for batch, tokens, start, heads, kv, size in ((1, 1, 5, 9, 3, 16), (2, 3, 0, 4, 2, 24), (3, 1, 2, 20, 10, 64)):
        length = start + tokens + 2
        q, k, v = (draw(batch * tokens, h * size, seed=i, dtype=dtype) for i, h in enumerate((heads, kv, kv)))
        keys, values = (torch.full((batch, length, kv, size), 7.0, dtype=dtype) for _ in "kv")
        cos, sin = cuda_ops.rotary_tables(Rotary(), size, length, CPU)
        got = cuda_fused.rope_store(q, k, v, cos, sin, keys, values, start)
        positions, new = np.arange(start, start + tokens), slice(start, start + tokens)
        case = f"{kind} {batch} {tokens} {start} {heads} {kv} {size}"
        turned = rotate(wide(q).reshape(batch, tokens, heads, size), positions, 10_000.0)
        errors[f"rope {case}"] = relative(wide(got).reshape(turned.shape), turned)
        turned = rotate(wide(k).reshape(batch, tokens, kv, size), positions, 10_000.0)
        errors[f"keys {case}"] = relative(wide(keys)[:, new], turned)
        errors[f"values {case}"] = relative(wide(values)[:, new], wide(v).reshape(batch, tokens, kv, size))
        for cache in (keys, values):
            assert (np.delete(wide(cache), positions, 1) == 7.0).all(), "rows of other positions were written"
    for bits, name in ((8, "w8a8"), (8, "w8a8g32"), (4, "w4a8g32"), (4, "w4a16g64"), (2, "w2a8g32"), (2, "w2a8g128")):
        packed = quantise(draw(12, 384, seed=5, dtype=torch.float32), Precision.parse(name))
        table, ids = PackedTable.of(packed, CPU), torch.tensor([11, 0, 3])
        got = cuda_fused.embed(table.codes, table.scales, table.zeros, table.bits, ids, dtype)
        zeros = None if packed.grid.zeros is None else packed.grid.zeros.numpy()
        expected = dequantised_rows(packed.codes.numpy(), packed.grid.scales.numpy(), zeros, ids.numpy())
        errors[f"embed{bits} {kind} {name}"] = relative(wide(got), expected)
print(json.dumps(errors))
