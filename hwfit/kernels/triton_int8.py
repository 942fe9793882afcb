# pyright: reportOperatorIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false, reportAssignmentType=false
"""W8A8, W4A8 and W2A8: int8 tensor cores, int32 sums, activations rounded to int8 token by token on every call.

    quantise_rows   x[m, k] -> int8 codes and one fp32 scale a row, symmetric: code = round(x * 127 / max|row|)
    int8_dot        per channel: one int32 sum over all of K; in groups: each group's int32 sum is scaled into fp32
    rescale         int32 sums of a library product to outputs

Narrow codes are unpacked to signed int8, code - zero, in registers. A row with NaN or Inf gets a scale of NaN or Inf,
so that all its outputs, and no others, are not finite.
"""

import triton
import triton.language as tl

from hwfit.kernels.triton_tile import finish, group_of, span_of, tile_of


@triton.jit
def quantise_rows(x, codes, row_scales, K, PADDED, TOP: tl.constexpr, EXACT: tl.constexpr, BK: tl.constexpr):
    """`x[m, K]` -> `codes[m, PADDED]`, one program a row; BK >= PADDED. int8 for TOP 127, e4m3 for TOP 448.

    EXACT rounds to e4m3 before the conversion: the interpreter's own loses carries (the hardware's is right).
    """
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, BK)
    v = tl.load(x + row * K + k, mask=k < K, other=0.0).to(tl.float32)
    peak = tl.maximum(tl.max(tl.abs(v), 0), 1e-30)
    peak = tl.where(tl.max((v != v).to(tl.int32), 0) > 0, float("nan"), peak)  # max passes NaN over
    tl.store(row_scales + row, peak / TOP)
    v = v * (TOP / peak)
    if TOP == 127:  # adding 1.5 * 2^23 rounds half to even; the code is then in the low byte
        code = (v + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8)
    else:
        if EXACT:
            v = _round_e4m3(v)
        code = v.to(codes.dtype.element_ty)
    tl.store(codes + row * PADDED + k, code, mask=k < PADDED)


@triton.jit
def _round_e4m3(v):
    bits = v.to(tl.int32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000).to(tl.float32, bitcast=True)  # 3 mantissa bits
    tiny = (v + 24576.0) - 24576.0  # multiples of 2^-9
    rounded = tl.minimum(tl.maximum(tl.where(tl.abs(v) < 0.015625, tiny, normal), -448.0), 448.0)
    return tl.where(v == v, rounded, v)


@triton.constexpr_function
def subtract_asm(shift, bits):
    """PTX that takes one code out of each of four bytes and subtracts four others; 128 keeps borrows apart."""
    return f"""{{
        .reg .b32 t;
        shr.u32 t, $1, {shift};
        and.b32 t, t, {((1 << bits) - 1) * 0x01010101};
        or.b32 t, t, {0x80808080};
        sub.u32 t, t, $2;
        xor.b32 $0, t, {0x80808080};
    }}"""


@triton.jit
def to_int8(packed, minus, LANE: tl.constexpr, BITS: tl.constexpr, ASM: tl.constexpr):
    """Codes of one lane of uint8 `packed` minus the zero points `minus`, as int8 (ASM: see `to_float`)."""
    if ASM:
        asm: tl.constexpr = subtract_asm(BITS * LANE, BITS)
        return tl.inline_asm_elementwise(asm, "=r,r,r", [packed, minus], dtype=tl.int8, is_pure=True, pack=4)
    else:
        return ((packed >> (BITS * LANE)) & ((1 << BITS) - 1)).to(tl.int8) - minus


@triton.jit(do_not_specialize=["M", "BLOCKS", "SPLIT"])
def int8_dot(
    x,  # [M, BLOCKS * CHUNK * PER] int8, padded like a row of codes
    row_scales,  # [M] fp32
    codes,  # [N, BLOCKS * CHUNK] uint8, or int8 where BITS is 8 and not HAS_ZERO
    scales,
    zeros,
    y,
    work,
    counters,
    M,
    N,
    BLOCKS,
    SPLIT,
    BITS: tl.constexpr,
    CHUNK: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_ZERO: tl.constexpr,
    ASM: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    PER: tl.constexpr = 8 // BITS
    SHARED: tl.constexpr = GROUP >= PER * CHUNK  # all lanes of a block lie in one group
    tile_n, tile_m = tile_of(tl.program_id(0), M, N, BM, BN)
    n, m = tile_n * BN + tl.arange(0, BN), tile_m * BM + tl.arange(0, BM)
    column = tl.minimum(n, N - 1)
    i = tl.arange(0, CHUNK)
    real = (m < M)[None, :]
    bytes_at = codes + column[:, None].to(tl.int64) * (BLOCKS * CHUNK) + i[None, :]
    x_at = x + m[None, :].to(tl.int64) * (BLOCKS * CHUNK * PER) + i[:, None]
    minus = tl.full((BN, 1), 0 if BITS == 8 else 1 << (BITS - 1), tl.int8)
    if HAS_ZERO and GROUP == 0:
        minus = tl.load(zeros + column).to(tl.int8)[:, None]
    whole = tl.zeros((BN, BM), tl.int32)
    acc = tl.zeros((BN, BM), tl.float32)
    first, last = span_of(BLOCKS, SPLIT)
    for block in range(first, last):
        packed = tl.load(bytes_at + block * CHUNK)  # [BN, CHUNK]
        if GROUP:
            whole = tl.zeros((BN, BM), tl.int32)
        for j in tl.static_range(PER):
            xt = tl.load(x_at + (block * PER + j) * CHUNK, mask=real, other=0)  # [CHUNK, BM]
            group = 0
            if GROUP:
                group = group_of(block, j, PER * CHUNK, CHUNK, GROUP)
                if HAS_ZERO:
                    minus = tl.load(zeros + group * N + column).to(tl.int8)[:, None]
            w = packed
            if BITS < 8:
                w = to_int8(packed, minus, j, BITS, ASM)
            if GROUP == 0 or SHARED:
                whole = tl.dot(w, xt, whole, out_dtype=tl.int32)
            if GROUP != 0 and (not SHARED or j == PER - 1):
                scale = tl.load(scales + group * N + column)[:, None].to(tl.float32)
                if SHARED:
                    acc += whole.to(tl.float32) * scale
                else:
                    acc += tl.dot(w, xt, out_dtype=tl.int32).to(tl.float32) * scale
    if GROUP == 0:
        acc = whole.to(tl.float32) * tl.load(scales + column)[:, None].to(tl.float32)
    acc *= tl.load(row_scales + m, mask=m < M, other=0.0)[None, :]
    finish(acc, y, work, counters, n, m, M, N, SPLIT)


@triton.jit(do_not_specialize=["M"])
def rescale(sums, row_scales, scales, y, M, N, BM: tl.constexpr, BN: tl.constexpr):
    """`sums[M, N]` int32 times the scale of its row and of its column."""
    m, n = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    inside = (m[:, None] < M) & (n[None, :] < N)
    at = m[:, None].to(tl.int64) * N + n[None, :]
    value = tl.load(sums + at, mask=inside, other=0).to(tl.float32)
    value *= (
        tl.load(row_scales + m, mask=m < M, other=0.0)[:, None] * tl.load(scales + n, mask=n < N, other=0.0)[None, :]
    )
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)
