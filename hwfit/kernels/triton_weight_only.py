# pyright: reportOperatorIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false, reportAssignmentType=false
"""W8A16, W4A16 and W2A16: integer weights, 16-bit activations, fp32 sums.

Codes become floats without a conversion: OR-ing code c into the mantissa of 1024 (fp16) or 128 (bf16) gives exactly
1024 + c or 128 + c, and one subtraction takes the constant and the zero point off together.

    weight_only_skinny   few rows: tensor cores, the warps of a program share K and add up in the end
    weight_only_dot      tensor cores; K may be split over several programs (`triton_tile.finish`)
    dequantise_rows      the weight in 16 bits, for cuBLAS: at hundreds of rows writing it once is the smaller cost
"""

import triton
import triton.language as tl

from hwfit.kernels.triton_tile import finish, group_of, span_of, tile_of


@triton.constexpr_function
def spread_asm(shift, bits, exponent):
    """PTX that takes one code out of each of four bytes and puts `exponent` above it: two fp16 or bf16 a register."""
    mask = ((1 << bits) - 1) * 0x01010101
    return f"""{{
        .reg .b32 t;
        shr.u32 t, $2, {shift};
        and.b32 t, t, {mask};
        prmt.b32 $0, t, {exponent * 0x01010101}, 0x4140;
        prmt.b32 $1, t, {exponent * 0x01010101}, 0x4342;
    }}"""


@triton.jit
def to_float(packed, minus, LANE: tl.constexpr, BITS: tl.constexpr, ASM: tl.constexpr, dtype: tl.constexpr):
    """Codes of one lane of uint8 `packed` minus the zero points `minus`, exactly, as `dtype` (fp16 or bf16).

    ASM has PTX spread four bytes at a time, which LLVM does one by one; the interpreter has no PTX.
    """
    if dtype == tl.bfloat16 and BITS < 8:  # 128 + c is exact in bf16, 1024 + c is not
        if ASM:
            asm: tl.constexpr = spread_asm(BITS * LANE, BITS, 0x43)
            magic = tl.inline_asm_elementwise(asm, "=r,=r,r", [packed], dtype=tl.bfloat16, is_pure=True, pack=4)
        else:
            code = (packed >> (BITS * LANE)) & ((1 << BITS) - 1)
            magic = (code.to(tl.uint16) | 0x4300).to(tl.bfloat16, bitcast=True)
        return magic - (minus + 128).to(tl.bfloat16)
    else:
        if ASM:
            asm: tl.constexpr = spread_asm(BITS * LANE, BITS, 0x64)
            magic = tl.inline_asm_elementwise(asm, "=r,=r,r", [packed], dtype=tl.float16, is_pure=True, pack=4)
        else:
            code = (packed >> (BITS * LANE)) & ((1 << BITS) - 1)
            magic = (code.to(tl.uint16) | 0x6400).to(tl.float16, bitcast=True)
        return (magic - (minus + 1024).to(tl.float16)).to(dtype)


@triton.jit(do_not_specialize=["M", "BLOCKS", "SPLIT"])
def weight_only_dot(
    x,  # [M, K] fp16 or bf16
    codes,  # [N, BLOCKS * CHUNK] uint8
    scales,  # [groups, N], [1, N] per channel
    zeros,  # like scales, uint8; any pointer if not HAS_ZERO
    y,  # [M, N]
    work,
    counters,
    M,
    N,
    K,
    BLOCKS,
    SPLIT,
    BITS: tl.constexpr,
    CHUNK: tl.constexpr,
    GROUP: tl.constexpr,  # 0: per channel
    HAS_ZERO: tl.constexpr,
    EVEN_K: tl.constexpr,  # no padding
    ASM: tl.constexpr,
    SCALE_AFTER: tl.constexpr,  # scale fp32 sums, not weights: exact, and cheaper while BM is small
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    PER: tl.constexpr = 8 // BITS
    HALF: tl.constexpr = 1 << (BITS - 1)
    SHARED: tl.constexpr = GROUP >= PER * CHUNK  # all lanes of a block lie in one group
    tile_n, tile_m = tile_of(tl.program_id(0), M, N, BM, BN)
    n, m = tile_n * BN + tl.arange(0, BN), tile_m * BM + tl.arange(0, BM)
    column = tl.minimum(n, N - 1)
    i = tl.arange(0, CHUNK)
    bytes_at = codes + column[:, None].to(tl.int64) * (BLOCKS * CHUNK) + i[None, :]
    x_at = x + m[None, :].to(tl.int64) * K + i[:, None]
    real = (m < M)[None, :]
    minus = tl.full((BN, 1), HALF, tl.int32)
    if HAS_ZERO and GROUP == 0:
        minus = tl.load(zeros + column).to(tl.int32)[:, None]
    acc = tl.zeros((BN, BM), tl.float32)
    first, last = span_of(BLOCKS, SPLIT)
    for block in range(first, last):
        packed = tl.load(bytes_at + block * CHUNK)  # [BN, CHUNK]
        part = tl.zeros((BN, BM), tl.float32)
        for j in tl.static_range(PER):
            if not SHARED:
                part = tl.zeros((BN, BM), tl.float32)
            k = (block * PER + j) * CHUNK
            if EVEN_K:
                xt = tl.load(x_at + k, mask=real, other=0.0)  # [CHUNK, BM]
            else:
                xt = tl.load(x_at + k, mask=real & ((k + i)[:, None] < K), other=0.0)
            group = 0
            if GROUP:
                group = group_of(block, j, PER * CHUNK, CHUNK, GROUP)
                if HAS_ZERO:
                    minus = tl.load(zeros + group * N + column).to(tl.int32)[:, None]
            w = to_float(packed, minus, j, BITS, ASM, x.dtype.element_ty)
            if GROUP == 0:
                acc = tl.dot(w, xt, acc)
            else:
                scale = tl.load(scales + group * N + column)[:, None]
                if not SCALE_AFTER:
                    acc = tl.dot(w * scale.to(w.dtype), xt, acc)
                else:
                    part = tl.dot(w, xt, part)
                    if not SHARED or j == PER - 1:
                        acc += part * scale.to(tl.float32)
    if GROUP == 0:
        acc *= tl.load(scales + column)[:, None].to(tl.float32)
    finish(acc, y, work, counters, n, m, M, N, SPLIT)


@triton.constexpr_function
def base_of(dtype, bits):
    """What `raw_float` adds to a code."""
    if dtype == tl.bfloat16:
        return -128 if bits == 8 else 128
    return 1024


@triton.jit
def raw_float(packed, LANE: tl.constexpr, BITS: tl.constexpr, ASM: tl.constexpr, dtype: tl.constexpr):
    """Codes of one lane of uint8 `packed` plus `base_of(dtype, BITS)`, exactly."""
    if dtype == tl.bfloat16:
        if BITS == 8:
            return to_float(packed, tl.full((1, 1, 1), 128, tl.int32), LANE, BITS, ASM, dtype)
        elif ASM:
            asm: tl.constexpr = spread_asm(BITS * LANE, BITS, 0x43)
            return tl.inline_asm_elementwise(asm, "=r,=r,r", [packed], dtype=tl.bfloat16, is_pure=True, pack=4)
        else:
            code = (packed >> (BITS * LANE)) & ((1 << BITS) - 1)
            return (code.to(tl.uint16) | 0x4300).to(tl.bfloat16, bitcast=True)
    elif ASM:
        asm: tl.constexpr = spread_asm(BITS * LANE, BITS, 0x64)
        return tl.inline_asm_elementwise(asm, "=r,=r,r", [packed], dtype=tl.float16, is_pure=True, pack=4)
    else:
        code = (packed >> (BITS * LANE)) & ((1 << BITS) - 1)
        return (code.to(tl.uint16) | 0x6400).to(tl.float16, bitcast=True)


@triton.jit
def ones_like(packed, ASM: tl.constexpr, dtype: tl.constexpr):
    """1.0 in the place of each code; as if made of `packed`, so that both products read `x` in one layout."""
    if ASM:
        if dtype == tl.bfloat16:
            asm: tl.constexpr = "mov.b32 $0, 0x3f803f80; mov.b32 $1, 0x3f803f80; // $2"
            return tl.inline_asm_elementwise(asm, "=r,=r,r", [packed], dtype=tl.bfloat16, is_pure=True, pack=4)
        else:
            asm: tl.constexpr = "mov.b32 $0, 0x3c003c00; mov.b32 $1, 0x3c003c00; // $2"
            return tl.inline_asm_elementwise(asm, "=r,=r,r", [packed], dtype=tl.float16, is_pure=True, pack=4)
    else:
        return tl.full(packed.shape, 1.0, tl.float32).to(dtype)


@triton.jit(do_not_specialize=["M", "BLOCKS", "SPLIT"])
def weight_only_skinny(
    x,  # [M, K] fp16 or bf16
    codes,  # [N, BLOCKS * CHUNK] uint8
    scales,
    zeros,
    y,
    work,
    counters,
    M,
    N,
    K,
    BLOCKS,
    SPLIT,
    BITS: tl.constexpr,
    CHUNK: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_ZERO: tl.constexpr,
    EVEN: tl.constexpr,  # K is a whole number of steps
    ASM: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    WARPS: tl.constexpr,  # blocks of a step, one a warp
):
    """One warp a block of K: nothing is exchanged until the sums of all warps are added.

    Codes are multiplied with the constant that makes them floats still on; the constant and the zero point come off a
    group's sum, times the sum of its x, which a second product with ones gives in the same registers.
    """
    PER: tl.constexpr = 8 // BITS
    dtype: tl.constexpr = x.dtype.element_ty
    BASE: tl.constexpr = base_of(dtype, BITS)
    SHARED: tl.constexpr = GROUP == 0 or GROUP >= PER * CHUNK  # all codes of a block have one scale
    OFFSET: tl.constexpr = HAS_ZERO or BASE != -(1 << (BITS - 1))
    tile_n, tile_m = tile_of(tl.program_id(0), M, N, BM, BN)
    n, m = tile_n * BN + tl.arange(0, BN), tile_m * BM + tl.arange(0, BM)
    column = tl.minimum(n, N - 1)
    i, warp = tl.arange(0, CHUNK), tl.arange(0, WARPS)
    row = codes + column.to(tl.int64)[None, :, None] * (BLOCKS * CHUNK) + i[None, None, :]
    x_at = x + m[None, None, :].to(tl.int64) * K + i[None, :, None]
    real = (m < M)[None, None, :]
    offset = tl.full((WARPS, BN), BASE + (1 << (BITS - 1)), tl.float32)
    if HAS_ZERO and GROUP == 0:
        offset = tl.load(zeros + column).to(tl.float32)[None, :] + BASE
    acc = tl.zeros((WARPS, BN, BM), tl.float32)
    part = tl.zeros((WARPS, BN, BM), tl.float32)
    sum_x = tl.zeros((WARPS, BN, BM), tl.float32)
    first, last = span_of(tl.cdiv(BLOCKS, WARPS), SPLIT)
    if GROUP != 0 and SHARED:  # loaded one step ahead
        at = tl.minimum(first * WARPS + warp, BLOCKS - 1)[:, None] // (GROUP // (PER * CHUNK)) * N + column[None, :]
        next_scale = tl.load(scales + at)
        if HAS_ZERO:
            next_zero = tl.load(zeros + at)
    for step in range(first, last):
        block = step * WARPS + warp
        known = block
        if not EVEN:
            known = tl.minimum(block, BLOCKS - 1)
        packed = tl.load(row + (known * CHUNK)[:, None, None])  # [WARPS, BN, CHUNK]
        if GROUP != 0:
            part = tl.zeros((WARPS, BN, BM), tl.float32)
            sum_x = tl.zeros((WARPS, BN, BM), tl.float32)
        if GROUP != 0 and SHARED:
            scale = next_scale
            at = tl.minimum(block + WARPS, BLOCKS - 1)[:, None] // (GROUP // (PER * CHUNK)) * N + column[None, :]
            next_scale = tl.load(scales + at)
            if HAS_ZERO:
                offset = next_zero.to(tl.float32) + BASE
                next_zero = tl.load(zeros + at)
        for j in tl.static_range(PER):
            k = (block * PER + j) * CHUNK
            mask = real
            if not EVEN:
                mask = real & ((k[:, None] + i[None, :]) < K)[:, :, None]
            xt = tl.load(x_at + k[:, None, None], mask=mask, other=0.0)  # [WARPS, CHUNK, BM]
            if not SHARED:
                part = tl.zeros((WARPS, BN, BM), tl.float32)
                sum_x = tl.zeros((WARPS, BN, BM), tl.float32)
            part = tl.dot(raw_float(packed, j, BITS, ASM, dtype), xt, part)
            if OFFSET:
                sum_x = tl.dot(ones_like(packed, ASM, dtype), xt, sum_x)
            if not SHARED:
                at = (known * (PER * CHUNK) + j * CHUNK)[:, None] // GROUP * N + column[None, :]
                scale = tl.load(scales + at)
                if HAS_ZERO:
                    offset = tl.load(zeros + at).to(tl.float32) + BASE
                acc += (part - offset[:, :, None] * sum_x) * scale.to(tl.float32)[:, :, None]
        if GROUP != 0 and SHARED:
            acc += (part - offset[:, :, None] * sum_x) * scale.to(tl.float32)[:, :, None]
    if GROUP == 0:
        acc = part - offset[:, :, None] * sum_x
    out = tl.sum(acc, 0)  # [BN, BM]
    if GROUP == 0:
        out *= tl.load(scales + column)[:, None].to(tl.float32)
    finish(out, y, work, counters, n, m, M, N, SPLIT)


@triton.jit(do_not_specialize=["BLOCKS"])
def dequantise_rows(
    codes,
    scales,
    zeros,
    out,  # [N, K] fp16 or bf16
    N,
    K,
    BLOCKS,
    BITS: tl.constexpr,
    CHUNK: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_ZERO: tl.constexpr,
    BN: tl.constexpr,
    BB: tl.constexpr,  # blocks a program
):
    PER: tl.constexpr = 8 // BITS
    HALF: tl.constexpr = 1 << (BITS - 1)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    column = tl.minimum(n, N - 1)
    byte = tl.program_id(1) * (BB * CHUNK) + tl.arange(0, BB * CHUNK)
    row = codes + column[:, None].to(tl.int64) * (BLOCKS * CHUNK)
    real = (n < N)[:, None] & (byte < BLOCKS * CHUNK)[None, :]
    packed = tl.load(row + byte[None, :], mask=real, other=0)
    for j in tl.static_range(PER):
        k = (byte // CHUNK * PER + j) * CHUNK + byte % CHUNK  # [BB * CHUNK]
        w = ((packed >> (BITS * j)) & ((1 << BITS) - 1)).to(tl.float32)
        group = column[:, None]
        if GROUP:
            group += (k // GROUP * N)[None, :]
        if HAS_ZERO:
            w -= tl.load(zeros + group, mask=real, other=0).to(tl.float32)
        else:
            w -= HALF
        w *= tl.load(scales + group, mask=real, other=0.0).to(tl.float32)
        at = n[:, None].to(tl.int64) * K + k[None, :]
        tl.store(out + at, w.to(out.dtype.element_ty), mask=real & (k < K)[None, :])
