"""The device layout: an exact inverse, and read element by element as the docstring's diagram says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from triton_reference import dense_of, random_quantised

from hwfit.errors import HwfitError
from hwfit.kernels.quantise import Grid, Quantised, dequantise, minmax_grid, quantise
from hwfit.kernels.triton_pack import (
    GpuWeight,
    chunk_size,
    dequantise_gpu,
    pack_fp8,
    pack_gpu,
    random_gpu_weight,
    unpack_gpu,
)
from hwfit.precision import KNOWN, Precision

PACKED = [name for name in KNOWN if (p := Precision.parse(name)).weight_bits in (2, 4, 8) and not p.float8]


def packed(q: Quantised) -> GpuWeight:
    w = pack_gpu(q, torch.float16)
    assert isinstance(w, GpuWeight)
    return w


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(PACKED),
    n=st.integers(1, 9),
    thirty_twos=st.integers(1, 20),
    seed=st.integers(0, 999),
    symmetric=st.booleans(),
)
def test_packing_has_an_exact_inverse(name: str, n: int, thirty_twos: int, seed: int, symmetric: bool) -> None:
    p = Precision.parse(name)
    k = 32 * thirty_twos * ((p.group or 32) // 32)
    symmetric = symmetric or (p.weight_bits, p.act_bits) == (8, 8)
    q = random_quantised(p, n, k, seed, symmetric)
    w = packed(q)
    back = unpack_gpu(w)
    assert w.shape == (n, k)
    assert torch.equal(back.codes, q.codes)
    assert back.codes.dtype == q.codes.dtype
    assert torch.equal(back.grid.scales, q.grid.scales)
    assert (back.grid.zeros is None) == symmetric
    if back.grid.zeros is not None and q.grid.zeros is not None:
        assert torch.equal(back.grid.zeros, q.grid.zeros)
    np.testing.assert_allclose(dequantise_gpu(w).double().numpy(), dense_of(q), rtol=1e-6)


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("groups", [1, 3, 8])
def test_bytes_lie_as_the_diagram_says(name: str, groups: int) -> None:
    p = Precision.parse(name)
    n, k = 3, groups * (p.group or 96)
    q = random_quantised(p, n, k, 0, p.symmetric)
    w, per = packed(q), 8 // p.weight_bits
    stored, chunk = w.codes.view(torch.uint8).numpy(), w.chunk
    assert stored.shape[1] % chunk == 0
    assert stored.shape[1] % 16 == 0  # rows start on 16 bytes
    for row in range(n):
        for i in range(k):
            block, inside = divmod(i, per * chunk)
            lane, byte = divmod(inside, chunk)
            field = int(stored[row, block * chunk + byte]) >> (p.weight_bits * lane) & (2**p.weight_bits - 1)
            code = int(q.codes[row, i])
            if w.codes.dtype == torch.uint8 and p.symmetric:
                code += 2 ** (p.weight_bits - 1)
            assert field == code % 256
    if p.group:
        assert w.scales.shape == (-(-w.padded // p.group), n)
        assert w.chunk <= p.group
        assert torch.equal(w.scales[:groups].float().T, q.grid.scales)
        assert not w.scales[groups:].any()


def test_blocks_need_no_padding_where_a_smaller_chunk_avoids_it() -> None:
    assert [chunk_size(4, 128, k) for k in (4096, 576, 14336)] == [64, 32, 64]
    assert chunk_size(2, 64, 2048) == 64
    assert chunk_size(4, 32, 4096) == 32
    assert packed(random_quantised(Precision.parse("w4a16g64"), 2, 576, 0, False)).padded == 576


def test_scales_are_fp16_only_where_that_keeps_them() -> None:
    p = Precision.parse("w4a16g32")
    w = torch.randn(4, 64)
    assert packed(quantise(w, p)).scales.dtype == torch.float16
    for factor in (1e-6, 1e6):
        q = quantise(w * factor, p)
        wide = packed(q)
        assert wide.scales.dtype == torch.float32
        assert torch.equal(dequantise_gpu(wide), dequantise(q))
    w[0, :32] = 0  # a group of zeros has the smallest scale there is
    assert packed(quantise(w, p)).scales.dtype == torch.float16
    assert packed(quantise(w, Precision.parse("w4a16"))).scales.dtype == torch.float32


def test_fp8_is_the_nearest_e4m3_value_of_each_channels_scale() -> None:
    w = torch.randn(5, 96)
    w[3] = 0
    got, k = pack_fp8(w), 96
    assert got.codes.dtype == torch.float8_e4m3fn
    assert got.shape == (5, k)
    scale = w.abs().amax(1, keepdim=True).double() / 448
    error = (dequantise_gpu(got).double() - w.double()).abs()
    assert bool((error <= torch.maximum(w.abs().double() / 16, scale * 2**-10) * 1.001).all())  # half a step
    assert bool((got.codes[:, k:].float() == 0).all())


@pytest.mark.parametrize("name", [*PACKED, "fp8", "w16a16"])
def test_random_weights_have_the_layout_and_spread_of_packed_ones(name: str) -> None:
    p = Precision.parse(name)
    w, again = (random_gpu_weight(96, 640, p, torch.bfloat16, "cpu", seed=3) for _ in range(2))
    if isinstance(w, torch.Tensor):
        assert w.dtype == torch.bfloat16
        return
    assert isinstance(again, GpuWeight)
    assert torch.equal(w.codes.view(torch.uint8), again.codes.view(torch.uint8))
    source = torch.randn(96, 640)
    model = pack_fp8(source) if p.float8 else packed(quantise(source, p, minmax_grid(source, p)))
    for field in ("codes", "scales", "zeros"):
        mine, theirs = getattr(w, field), getattr(model, field)
        assert (mine is None) == (theirs is None)
        assert mine is None or (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
    assert (w.chunk, w.k, w.nbytes) == (model.chunk, model.k, model.nbytes)
    assert float(dequantise_gpu(w).std()) == pytest.approx(640**-0.5, rel=0.1)


def test_what_has_no_layout_is_refused() -> None:
    with pytest.raises(HwfitError, match="allowed weight bits: 2, 4, 8"):
        pack_gpu(quantise(torch.randn(2, 64), Precision.parse("w3a16g32")), torch.float16)
    with pytest.raises(HwfitError, match="allowed weight bits: 2, 4, 8"):
        random_gpu_weight(2, 64, Precision.parse("w3a16g32"), torch.float16, "cpu")
    q = random_quantised(Precision.parse("w4a16g32"), 2, 64, 0, symmetric=False)
    with pytest.raises(HwfitError, match="uint8 codes need zero points"):
        pack_gpu(Quantised(q.codes, Grid(q.grid.scales), q.precision), torch.float16)
    q = random_quantised(Precision.parse("w8a8g32"), 2, 64, 0, symmetric=False)
    with pytest.raises(HwfitError, match="use no zero points"):
        pack_gpu(q, torch.float16)


def test_a_plain_tensor_is_cast() -> None:
    w = torch.randn(3, 4)
    assert torch.equal(pack_gpu(w, torch.bfloat16), w.bfloat16())  # type: ignore[arg-type]
