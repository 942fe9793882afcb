"""Byte layouts: exact inverses, and each against an element-by-element reading written here."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwfit.kernels import pack
from hwfit.kernels.quantise import Grid, Quantised, quantise
from hwfit.precision import Precision

BLOCKS = ["w8a8g32", "w8a8g64", "w4a8g32", "w4a8g128", "w2a8g32", "w2a8g64"]


def random_quantised(name: str, n: int, groups: int, seed: int) -> Quantised:
    p = Precision.parse(name)
    rng = np.random.default_rng(seed)
    k = groups * (p.group or 16)
    scales = torch.from_numpy(rng.random((n, groups if p.group else 1), np.float32))
    if p.symmetric:
        return Quantised(torch.from_numpy(rng.integers(-127, 128, (n, k)).astype(np.int8)), Grid(scales), p)
    codes, zeros = (rng.integers(0, 2**p.weight_bits, size) for size in ((n, k), tuple(scales.shape)))
    grid = Grid(scales, torch.from_numpy(zeros.astype(np.float32)))
    return Quantised(torch.from_numpy(codes.astype(np.uint8)), grid, p)


def same(a: Quantised, b: Quantised) -> bool:
    zeros = (a.grid.zeros is None) == (b.grid.zeros is None)
    if a.grid.zeros is not None and b.grid.zeros is not None:
        zeros = torch.equal(a.grid.zeros, b.grid.zeros)
    return (
        zeros
        and torch.equal(a.codes, b.codes)
        and a.codes.dtype == b.codes.dtype
        and torch.equal(a.grid.scales, b.grid.scales)
    )


@settings(max_examples=80, deadline=None)
@given(bits=st.sampled_from([2, 4, 8]), data=st.binary(min_size=1, max_size=60))
def test_bits_unpack_to_what_was_packed(bits: int, data: bytes) -> None:
    codes = np.frombuffer(data, np.uint8) & np.uint8(2**bits - 1)
    packed = pack.pack_bits(codes, bits)
    assert packed.size == -(-codes.size * bits // 8)
    as_number = int.from_bytes(packed.tobytes(), "little")
    assert [(as_number >> (bits * i)) % 2**bits for i in range(codes.size)] == codes.tolist()
    assert np.array_equal(pack.unpack_bits(packed, bits, codes.size), codes)


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(BLOCKS), n=st.integers(1, 5), groups=st.integers(1, 7), seed=st.integers(0, 999))
def test_nbits_and_gather_are_exact_inverses(name: str, n: int, groups: int, seed: int) -> None:
    q = random_quantised(name, n, groups, seed)
    assert same(pack.from_nbits(pack.to_nbits(q), q.precision), q)
    assert same(pack.from_gather(pack.to_gather(q), q.precision), q)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 9), groups=st.integers(1, 4), seed=st.integers(0, 999))
def test_dynamic_is_an_exact_inverse(n: int, groups: int, seed: int) -> None:
    q = random_quantised("w8a8", n, groups, seed)
    arrays = pack.to_dynamic(q)
    assert arrays["codes"].shape == tuple(reversed(q.shape))
    assert arrays["scales"].shape == (n,)
    assert same(pack.from_dynamic(arrays, q.precision), q)


@pytest.mark.parametrize("name", BLOCKS)
def test_packed_size_is_what_precision_says(name: str) -> None:
    p = Precision.parse(name)
    q = quantise(torch.randn(24, 384), p)
    assert sum(a.nbytes for a in pack.to_nbits(q).values()) == p.weight_bytes(24, 384)
