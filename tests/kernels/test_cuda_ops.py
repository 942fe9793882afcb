"""The GPU's ops on CPU tensors against float64 written out plainly, in fp32 and fp16; Triton's in its interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from cuda_reference import attention, dequantised_rows, relative, rms_norm, rotate, silu

from hwfit.kernels import cuda_ops
from hwfit.kernels.cuda_ops import KvCache, PackedTable
from hwfit.kernels.quantise import quantise
from hwfit.precision import Precision
from hwfit.rotary import Rotary

BOUND = {torch.float32: 2e-6, torch.float16: 1.5e-3}
DTYPES = list(BOUND)
CPU = torch.device("cpu")


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def wide(x: torch.Tensor) -> np.ndarray:
    return x.double().numpy()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "k"), [(1, 64), (7, 100), (33, 576)])
@pytest.mark.parametrize("branch", [True, False])
def test_add_norm(dtype: torch.dtype, m: int, k: int, branch: bool):
    stream, add, gain = draw(m, k, dtype=dtype), draw(m, k, seed=1, dtype=dtype), draw(k, seed=2, dtype=dtype)
    before = stream.clone()
    got = cuda_ops.add_norm(stream, add if branch else None, gain, 1e-5)
    total = (wide(before) + wide(add)) if branch else wide(before)
    assert relative(wide(stream), total) < BOUND[dtype]
    assert relative(wide(got), rms_norm(wide(stream), wide(gain), 1e-5)) < BOUND[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu(dtype: torch.dtype):
    gate, up = 4 * draw(5, 192, dtype=dtype), draw(5, 192, seed=1, dtype=dtype)
    assert relative(wide(cuda_ops.swiglu(gate, up)), silu(wide(gate)) * wide(up)) < BOUND[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "tokens", "start", "heads", "kv", "size"),
    [(1, 1, 8, 4, 2, 16), (1, 9, 0, 8, 8, 32), (3, 1, 5, 6, 2, 24), (2, 7, 0, 9, 3, 64)],
)
def test_rotary_cache_and_attention(
    dtype: torch.dtype, batch: int, tokens: int, start: int, heads: int, kv: int, size: int
):
    context, length = start + tokens, start + tokens + 3
    cache = KvCache(
        draw(batch, length, kv, size, seed=5, dtype=dtype), draw(batch, length, kv, size, seed=6, dtype=dtype)
    )
    old_keys, old_values = wide(cache.keys), wide(cache.values)
    q, k, v = (draw(batch * tokens, h * size, seed=i, dtype=dtype) for i, h in enumerate((heads, kv, kv)))
    rotary = cuda_ops.rotary_tables(Rotary(), size, length, CPU)
    got = cuda_ops.rope_store(q, k, v, rotary, cache, start)

    positions = np.arange(start, context)
    turned_q = rotate(wide(q).reshape(batch, tokens, heads, size), positions, 10_000.0)
    turned_k = rotate(wide(k).reshape(batch, tokens, kv, size), positions, 10_000.0)
    assert relative(wide(got).reshape(turned_q.shape), turned_q) < BOUND[dtype]
    assert relative(wide(cache.keys)[:, start:context], turned_k) < BOUND[dtype]
    assert np.array_equal(wide(cache.values)[:, start:context], wide(v).reshape(batch, tokens, kv, size))
    for new, old in ((cache.keys, old_keys), (cache.values, old_values)):
        assert np.array_equal(np.delete(wide(new), positions, 1), np.delete(old, positions, 1)), "others are left alone"

    attended = cuda_ops.attend(got, cache, context)
    expected = attention(
        wide(got).reshape(batch, tokens, heads, size),
        wide(cache.keys)[:, :context],
        wide(cache.values)[:, :context],
        start,
    )
    assert relative(wide(attended).reshape(expected.shape), expected) < 2 * BOUND[dtype]


def test_new_tokens_must_fill_the_context_or_be_one_a_sequence():
    cache = KvCache.empty(1, 8, 2, 16, torch.float32, CPU)
    with pytest.raises(AssertionError, match="one a sequence"):
        cuda_ops.attend(draw(3, 32), cache, 8)


@pytest.mark.parametrize("name", ["w8a8", "w8a8g32", "w4a8g32", "w4a16g64", "w2a8g64"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_embedding(name: str, dtype: torch.dtype):
    q = quantise(draw(50, 128, seed=3), Precision.parse(name))
    ids = torch.tensor([0, 49, 7, 7])
    table = PackedTable.of(q, CPU)
    got = cuda_ops.embed(table, ids, dtype)
    zeros = None if q.grid.zeros is None else q.grid.zeros.numpy()
    expected = dequantised_rows(q.codes.numpy(), q.grid.scales.numpy(), zeros, ids.numpy())
    assert got.dtype == dtype
    assert relative(wide(got), expected) < BOUND[dtype]
    assert table.codes.nbytes == 50 * 128 * q.precision.weight_bits // 8


def test_float_embedding_is_a_gather():
    table = draw(20, 32)
    got = cuda_ops.embed(table, torch.tensor([3, 19]), torch.float16)
    assert torch.equal(got, table[[3, 19]].half())


@pytest.fixture(scope="module")
def interpreted() -> dict[str, float]:
    """Relative errors of every Triton kernel of `cuda_fused`, run by a program of its own."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed (extra `gpu`)")
    script = Path(__file__).with_name("fused_in_interpreter.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "kernel", ["add_norm", "norm", "swiglu", "rope", "keys", "values", "embed8", "embed4", "embed2"]
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_triton_kernels_in_the_interpreter(interpreted: dict[str, float], kernel: str, dtype: str):
    errors = {case: e for case, e in interpreted.items() if case.startswith(f"{kernel} {dtype}")}
    assert len(errors) >= 2
    assert max(errors.values()) < BOUND[getattr(torch, dtype)], errors


@pytest.mark.parametrize("sm", [80, 90])
def test_triton_kernels_compile_without_a_gpu(sm: int):
    """None spills; registers and shared memory stay far below what the devices have."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed (extra `gpu`)")
    script = Path(__file__).with_name("fused_compiled.py")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, script, str(sm)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 7
    for name, (shared, spills) in found.items():
        assert shared <= 48 << 10, name
        assert spills == 0, name
