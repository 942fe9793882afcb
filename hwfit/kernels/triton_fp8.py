# pyright: reportOperatorIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false, reportAssignmentType=false
"""FP8 W8A8 on sm_90: e4m3 weights per output channel, e4m3 activations per token, rounded on every call
(`triton_int8.quantise_rows`), fp32 sums."""

import triton
import triton.language as tl

from hwfit.kernels.triton_tile import finish, span_of, tile_of


@triton.jit(do_not_specialize=["M", "STEPS", "SPLIT"])
def fp8_dot(
    x,  # [M, STEPS * BK] float8_e4m3fn
    row_scales,  # [M] fp32
    codes,  # [N, STEPS * BK] float8_e4m3fn
    scales,  # [N] fp32
    y,
    work,
    counters,
    M,
    N,
    STEPS,
    SPLIT,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    tile_n, tile_m = tile_of(tl.program_id(0), M, N, BM, BN)
    n, m = tile_n * BN + tl.arange(0, BN), tile_m * BM + tl.arange(0, BM)
    column = tl.minimum(n, N - 1)
    real = (m < M)[None, :]
    i = tl.arange(0, BK)
    w_at = codes + column[:, None].to(tl.int64) * (STEPS * BK) + i[None, :]
    x_at = x + m[None, :].to(tl.int64) * (STEPS * BK) + i[:, None]
    acc = tl.zeros((BN, BM), tl.float32)
    first, last = span_of(STEPS, SPLIT)
    for step in range(first, last):
        w = tl.load(w_at + step * BK)
        xt = tl.load(x_at + step * BK, mask=real, other=0.0)
        # the tensor cores' own sums keep few bits of fp8 products: move them to fp32 registers every BK inputs
        acc = tl.dot(w, xt, acc, max_num_imprecise_acc=BK)
    acc *= tl.load(scales + column)[:, None] * tl.load(row_scales + m, mask=m < M, other=0.0)[None, :]
    finish(acc, y, work, counters, n, m, M, N, SPLIT)
