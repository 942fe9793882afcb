"""Every Triton linear in the interpreter, against float64 products of what its codes and activations stand for.

fp16 activations where tensor cores are used: the interpreter's bf16 `tl.dot` is wrong. Errors are relative to the
rms that a sum of such products with random signs would have.
"""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed (the optional extra `gpu`)")

from triton_reference import activations, case, relative_error, rounded_e4m3, rounded_int8  # noqa: E402

from hwfit.errors import HwfitError  # noqa: E402
from hwfit.kernels.triton_configs import DENSE, LIBRARY, Config, default_config  # noqa: E402
from hwfit.kernels.triton_launch import INTERPRETED, quantised_rows  # noqa: E402
from hwfit.kernels.triton_linear import linear  # noqa: E402
from hwfit.kernels.triton_pack import dequantise_gpu, pack_fp8  # noqa: E402
from hwfit.precision import GROUPS, Precision  # noqa: E402

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="triton was imported before TRITON_INTERPRET=1 was set")

N = 40  # no multiple of any tile
K = {None: (160, 256), 32: (224, 256), 64: (320, 512), 128: (384, 512)}  # with padding or chunks of 32; without
ROWS = (1, 3, 16, 17, 65, 257)
WEIGHT_ONLY = [f"w{bits}a16{g}" for bits in (8, 4, 2) for g in ("", *(f"g{group}" for group in GROUPS))]
INT8 = [name.replace("a16", "a8") for name in WEIGHT_ONLY]

# Rounding the output to fp16 costs 2^-11 of it, up to five times the rms. Weights rounded to fp16 before the product
# (tiles of more than 32 rows, dense) add about as much again; integer and e4m3 products are exact.
BOUND = {"after": 3e-3, "before": 4e-3, "int8": 3e-3, "fp8": 3e-3}

SMALL = Config("dot", 16, 32)
LARGE = Config("dot", 64, 64)
SKINNY = Config("skinny", 8, 16, 1, 2, 2)


def tile(m: int) -> Config:
    return SMALL if m <= 17 else LARGE


@pytest.mark.parametrize("m", ROWS)
@pytest.mark.parametrize("name", WEIGHT_ONLY)
def test_weight_only_products(name: str, m: int) -> None:
    k = K[Precision.parse(name).group][m % 2]
    it, x = case(name, N, k), activations(m, k)
    expected = x.double().numpy() @ it.dense.T
    got = linear(x, it.packed, tile(m))
    assert got.dtype == x.dtype
    bound = BOUND["after" if m <= 17 else "before"]
    assert relative_error(got, expected, x.double().numpy(), it.dense) < bound


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", WEIGHT_ONLY)
def test_few_rows_by_warps_that_share_the_inputs(name: str, symmetric: bool) -> None:
    for m, k in ((1, K[Precision.parse(name).group][0]), (11, K[Precision.parse(name).group][1])):
        it, x = case(name, N, k, symmetric=symmetric), activations(m, k)
        expected = x.double().numpy() @ it.dense.T
        for warps, split in ((1, 1), (2, 2), (4, 1)):
            got = linear(x, it.packed, Config("skinny", 8, 16, split, warps, 2))
            assert relative_error(got, expected, x.double().numpy(), it.dense) < BOUND["after"]


@pytest.mark.parametrize("m", ROWS)
@pytest.mark.parametrize("name", INT8)
def test_int8_products(name: str, m: int) -> None:
    k = K[Precision.parse(name).group][m % 2]
    it, x = case(name, N, k), activations(m, k)
    rounded = rounded_int8(x)
    got = linear(x, it.packed, tile(m))
    assert relative_error(got, rounded @ it.dense.T, rounded, it.dense) < BOUND["int8"]
    if m > 3:  # so the line above does test the rounding
        assert relative_error(got, x.double().numpy() @ it.dense.T, x.double().numpy(), it.dense) > BOUND["int8"]


@pytest.mark.parametrize("m", ROWS)
def test_fp8_products(m: int) -> None:
    k = K[None][m % 2]
    w = torch.randn(N, k, generator=torch.Generator().manual_seed(0))
    w[5] = 0
    packed, x = pack_fp8(w), activations(m, k)
    dense, rounded = dequantise_gpu(packed).double().numpy(), rounded_e4m3(x)
    got = linear(x, packed, tile(m))
    assert relative_error(got, rounded @ dense.T, rounded, dense) < BOUND["fp8"]


@pytest.mark.parametrize("name", ["w4a16", "w4a16g32", "w4a16g128", "w2a16", "w2a16g64", "w4a8", "w4a8g128", "w2a8g32"])
@pytest.mark.parametrize("m", [3, 65])
def test_symmetric_narrow_weights(name: str, m: int) -> None:
    p = Precision.parse(name)
    k = K[p.group][0]
    it, x = case(name, N, k, symmetric=True), activations(m, k)
    values = rounded_int8(x) if p.act_bits == 8 else x.double().numpy()
    got = linear(x, it.packed, tile(m))
    assert relative_error(got, values @ it.dense.T, values, it.dense) < BOUND["before"]


@pytest.mark.parametrize("name", ["w8a16", "w8a16g64", "w4a16", "w4a16g32", "w2a16g128"])
def test_dense_is_the_same_product_by_the_library(name: str) -> None:
    k = K[Precision.parse(name).group][0]
    it, x = case(name, N, k), activations(5, k)
    got = linear(x, it.packed, DENSE)
    assert relative_error(got, x.double().numpy() @ it.dense.T, x.double().numpy(), it.dense) < BOUND["before"]


def test_library_is_the_same_product() -> None:
    it, x = case("w8a8", N, 160), activations(33, 160)
    rounded = rounded_int8(x)
    assert relative_error(linear(x, it.packed, LIBRARY), rounded @ it.dense.T, rounded, it.dense) < BOUND["int8"]


@pytest.mark.parametrize("name", ["w4a16g64", "w8a16", "w2a8g32", "w8a8", "fp8"])
@pytest.mark.parametrize("split", [2, 3, 7])
def test_splitting_k_adds_all_parts_and_leaves_the_counters_at_zero(name: str, split: int) -> None:
    k, m = 640, 17
    if name == "fp8":
        packed = pack_fp8(torch.randn(N, k, generator=torch.Generator().manual_seed(0)))
    else:
        packed = case(name, N, k).packed
    x = activations(m, k)
    whole = linear(x, packed, Config("dot", 16, 32))
    got = linear(x, packed, Config("dot", 16, 32, split=split))
    assert not packed.counters.any()
    assert torch.equal(got, linear(x, packed, Config("dot", 16, 32, split=split)))
    assert float((got.double() - whole.double()).abs().max()) <= 2e-3 * float(whole.double().abs().max())


def variants() -> Iterator[tuple[str, Config]]:
    for name in ("w8a16", "w8a16g32", "w4a16", "w4a16g128", "w2a16g32"):
        yield from ((name, SKINNY), (name, SMALL), (name, LARGE), (name, DENSE))
    for name in ("w8a8", "w8a8g64", "w4a8", "w4a8g32", "w2a8g128"):
        yield from ((name, SMALL), (name, LARGE))
    yield from (("w8a8", LIBRARY), ("fp8", SMALL))


@pytest.mark.parametrize(("name", "config"), variants(), ids=str)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_spoils_its_row_and_no_other(name: str, config: Config, poison: float) -> None:
    p = Precision.parse(name)
    k = p.group or 64
    k = max(k, 96) if p.group in (None, 32) else 2 * k
    packed = pack_fp8(torch.randn(N, k)) if p.float8 else case(name, N, k).packed
    live = (packed.scales[0] != 0).numpy()  # an output with a scale of 0 has no weights to be spoilt by
    m = 20
    x, bad = activations(m, k), m // 2
    x[bad, 1] = poison
    got = linear(x, packed, config).float().numpy()
    assert not np.isfinite(got[bad][live]).any()
    assert np.isfinite(np.delete(got, bad, 0)).all()


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0, 1e3])
@pytest.mark.parametrize("name", ["w8a16g32", "w4a16", "w4a16g64", "w2a16g32", "w8a8", "w4a8g32", "w2a8"])
def test_extreme_scales(name: str, scale: float) -> None:
    p = Precision.parse(name)
    k = K[p.group][0]
    it = case(name, N, k, scale=scale)
    for m, config in ((1, SKINNY if p.act_bits == 16 else SMALL), (5, SMALL), (5, LARGE)):
        x = (activations(m, k).float() * min(1.0, 0.1 / scale)).half()
        values = rounded_int8(x) if p.act_bits == 8 else x.double().numpy()
        expected = values @ it.dense.T
        got = linear(x, it.packed, config)
        tiny = np.abs(expected) < 2.0**-14  # fp16 has few bits left there
        assert np.abs(got.double().numpy() - expected)[tiny].max(initial=0) <= 2.0**-24
        spread = np.sqrt((values**2) @ (it.dense**2).T)
        error = np.abs(got.double().numpy() - expected) / np.maximum(spread, 1e-30)
        assert error[~tiny].max(initial=0) < BOUND["before"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_round_as_written_here(dtype: torch.dtype) -> None:
    x = activations(7, 100, dtype=dtype)
    x[4] *= 1e-3
    codes, scales = quantised_rows(x, 128)
    assert codes.dtype == torch.int8
    assert not codes[:, 100:].any()
    np.testing.assert_array_equal((codes[:, :100].double() * scales[:, None].double()).numpy(), rounded_int8(x))
    codes, scales = quantised_rows(x, 128, float8=True)
    np.testing.assert_array_equal((codes[:, :100].double() * scales[:, None].double()).numpy(), rounded_e4m3(x))


def test_bf16_outputs_of_the_int8_path() -> None:
    it, x = case("w4a8g32", N, 224), activations(5, 224, dtype=torch.bfloat16)
    rounded = rounded_int8(x)
    got = linear(x, it.packed, SMALL)
    assert got.dtype == torch.bfloat16
    assert relative_error(got, rounded @ it.dense.T, rounded, it.dense) < 8 * BOUND["int8"]


def test_default_configuration_and_edges() -> None:
    it = case("w4a16g32", 33, 96)
    for m in (1, 2, 20):
        x = activations(m, 96)
        expected = x.double().numpy() @ it.dense.T
        assert relative_error(linear(x, it.packed), expected, x.double().numpy(), it.dense) < BOUND["before"]
        assert default_config(m, it.packed.precision).variant == ("dot" if m > 16 else "skinny")
    assert linear(activations(0, 96), it.packed).shape == (0, 33)
    one_out = case("w8a8", 1, 32)
    assert linear(activations(3, 32), one_out.packed).shape == (3, 1)
    strided = activations(4, 192)[:, ::2]
    assert torch.equal(linear(strided, it.packed), linear(strided.contiguous(), it.packed))
    w = torch.randn(8, 32).half()
    assert torch.equal(linear(activations(3, 32), w), torch.nn.functional.linear(activations(3, 32), w))


def test_bad_calls_are_refused_in_words() -> None:
    packed = case("w4a16g32", N, 96).packed
    with pytest.raises(HwfitError, match=r"takes \[m, 96\]"):
        linear(activations(2, 64), packed)
    with pytest.raises(HwfitError, match=r"allowed: torch\.bfloat16, torch\.float16"):
        linear(activations(2, 96).float(), packed)
    with pytest.raises(HwfitError, match="use variant 'dot'"):
        linear(activations(2, 96), packed, LIBRARY)
    with pytest.raises(HwfitError, match="more than 16 rows"):
        linear(activations(2, 96), case("w8a8", N, 96).packed, LIBRARY)
