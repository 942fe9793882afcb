"""What all Triton linears share: which tile of `y` a program computes, and how programs that split K add up.

Every kernel computes the transposed product yᵀ[n, m] = w[n, k] xᵀ[k, m], so that the weight is the operand that tensor
cores may take from registers, where it has just been unpacked. Import this and the other `triton_*` kernels only where
triton is installed.
"""

import triton
import triton.language as tl


@triton.jit
def tile_of(pid, M, N, BM: tl.constexpr, BN: tl.constexpr):
    """(n tile, m tile) of a program, in bands of 8 n tiles so that neighbours share weights and `x` in the L2."""
    m_tiles = tl.cdiv(M, BM)
    n_tiles = tl.cdiv(N, BN)
    first = pid // (8 * m_tiles) * 8
    band = tl.minimum(n_tiles - first, 8)
    inside = pid % (8 * m_tiles)
    return first + inside % band, inside // band


@triton.jit
def finish(acc, y, work, counters, n, m, M, N, SPLIT):
    """Store `acc[n, m]` fp32 as `y[m, n]`; where SPLIT > 1 programs share a tile, the last adds their sums in order.

    Partial sums go to `work[SPLIT, M, N]`. The counter of a tile is atomically raised with acquire-release order
    after the partial sum is stored, so whoever reads SPLIT - 1 sees all of them; it then sets the counter back to 0.
    """
    inside = (n[:, None] < N) & (m[None, :] < M)
    at = m[None, :].to(tl.int64) * N + n[:, None]
    if SPLIT > 1:
        size = tl.cast(M, tl.int64) * N
        tl.store(work + tl.program_id(1) * size + at, acc, mask=inside)
        tl.debug_barrier()  # all threads have stored before one of them raises the counter
        counter = counters + tl.program_id(0)
        if tl.atomic_add(counter, 1, sem="acq_rel") == SPLIT - 1:
            total = tl.zeros_like(acc)
            for i in range(SPLIT):
                total += tl.load(work + i * size + at, mask=inside, other=0.0, cache_modifier=".cg")
            tl.store(y + at, total.to(y.dtype.element_ty), mask=inside)
            tl.store(counter, 0)
    else:
        tl.store(y + at, acc.to(y.dtype.element_ty), mask=inside)


@triton.jit
def span_of(steps, SPLIT):
    """[first, last) of `steps` that this program does when SPLIT programs share them."""
    each = tl.cdiv(steps, SPLIT)
    first = tl.program_id(1) * each
    return first, tl.minimum(first + each, steps)


@triton.jit
def group_of(block, LANE: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr, GROUP: tl.constexpr):
    """Index of the group that a lane of a block lies in; the same value for all lanes where a group holds the block."""
    if GROUP >= BLOCK:
        return block // (GROUP // BLOCK)
    else:
        return block * (BLOCK // GROUP) + LANE * CHUNK // GROUP
