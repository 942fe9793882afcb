"""Quantise: weights to integer codes on a grid and back, and what the ONNX Runtime kernels do to activations.

    group of `g` inputs:   w ≈ (code - zero) * scale

    8 bit  symmetric   code int8  in [-127, 127]          zero = 0
    b bit  asymmetric  code uint8 in [0, 2^b - 1]         zero in the same range, so it packs like a code

Every integer grid holds 0 exactly. Rounding is half to even throughout, as in ONNX Runtime. fp8 is e4m3 with one
scale per output channel (weights) or token (activations), the row's largest value at 448.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from hwfit.errors import HwfitError
from hwfit.precision import Precision

_CHUNK = 1 << 17  # elements worked on at a time: the few fp32 buffers of this size stay in L2
TINY = 1e-12  # smallest scale, so that a group of zeros divides cleanly
FP8_TOP = 448.0

# clip ratios tried, by weight bits (no clipping at all is the start)
_RATIOS = {
    8: (0.97, 0.95, 0.9, 0.85, 0.8, 0.7),
    4: (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6),
    3: (1.0, 0.92, 0.84, 0.76, 0.68, 0.6, 0.52),
    2: (1.0, 0.92, 0.84, 0.76, 0.68, 0.6, 0.52, 0.44, 0.36),
}


@dataclass(frozen=True)
class Grid:
    """Scales and zero points of a `[n, k]` weight, fp32 `[n, groups]`; `zeros` is None when symmetric."""

    scales: Tensor
    zeros: Tensor | None = None


@dataclass(frozen=True)
class Quantised:
    """Integer codes `[n, k]` (int8 when symmetric, else uint8, one code an element) on a grid."""

    codes: Tensor
    grid: Grid
    precision: Precision

    @property
    def shape(self) -> tuple[int, int]:
        n, k = self.codes.shape
        return n, k


def minmax_grid(w: Tensor, p: Precision) -> Grid:
    """The grid of `w[n, k]` that clips nothing. Raises `HwfitError` if `p` is a float or its group divides no `k`."""
    x = _groups(w, p)  # [n, groups, group]
    if p.symmetric:
        return Grid((x.abs().amax(-1) / _top(p)).clamp_min(TINY))
    return Grid(*_span_grid(x.amin(-1).clamp_max(0), x.amax(-1).clamp_min(0), _top(p)))


@torch.no_grad()
def clipped_grid(w: Tensor, p: Precision, energy: Tensor | None = None) -> Grid:
    """The grid with the least squared error of `w[n, k]` among several clip ratios, chosen group by group.

    `energy[k]` is the mean square of each input: the error of weight (i, j) counts energy[j] times, which is the
    squared error of the layer's output if inputs were uncorrelated (the diagonal of GPTQ's Hessian, arXiv 2210.17323).
    Asymmetric grids try both neighbouring zero points; the winner's scale is then refitted by least squares if that
    lowers the error further. Never worse than `minmax_grid` in that error. Same errors as `minmax_grid`.
    """
    x = _groups(w, p)  # [n, groups, group]
    n, groups, group = x.shape
    weight = None if energy is None else energy.detach().float().reshape(groups, group).T  # [group, groups]
    scales, zeros = x.new_empty(n, groups), x.new_empty(n, groups)

    def work(rows: slice) -> None:
        part = x[rows]
        r = part.shape[0]
        # the group runs down dim 0 so that every operation of the search is contiguous over the columns
        columns = part.permute(2, 0, 1).reshape(group, r * groups)  # [group, r * groups]
        importance = None if weight is None else weight[:, None, :].expand(group, r, groups).reshape(group, -1)
        s, z = _search(columns, importance, p)
        scales[rows], zeros[rows] = s.view(r, groups), z.view(r, groups)

    _over_rows(w, work)
    return Grid(scales, None if p.symmetric else zeros)


def quantise(w: Tensor, p: Precision, grid: Grid | None = None) -> Quantised:
    """Codes of `w[n, k]` on `grid` (default: `minmax_grid`). Same errors as `minmax_grid`."""
    grid = grid or minmax_grid(w, p)
    x = _groups(w, p)
    low, high = _range(p)
    codes = torch.round(x / grid.scales[..., None])
    if grid.zeros is not None:
        codes += grid.zeros[..., None]
    return Quantised(codes.clamp_(low, high).to(torch.int8 if p.symmetric else torch.uint8).view(w.shape), grid, p)


def dequantise(q: Quantised) -> Tensor:
    """fp32 `[n, k]`: (code - zero) * scale."""
    x = _groups(q.codes, q.precision)
    if q.grid.zeros is not None:
        x = x - q.grid.zeros[..., None]
    return (x * q.grid.scales[..., None]).view(q.codes.shape)


@torch.no_grad()
def fake_quantise(w: Tensor, p: Precision, grid: Grid | None = None) -> Tensor:
    """`dequantise(quantise(w, p, grid))` bit for bit, without the codes: 0.1 s per 100 M weights on two cores.

    No gradient flows: write `w + (fake_quantise(w, p, grid) - w).detach()` for a straight-through one.
    `w32` returns `w` itself, 16-bit weights are rounded to fp16 and fp8 to e4m3; none needs a grid.
    """
    if p.float8:
        return _rows_in_e4m3(w)
    if p.is_float:
        return w if p.weight_bits == 32 else w.half().to(w.dtype)
    grid = grid or minmax_grid(w, p)
    x = _groups(w, p)
    out = torch.empty_like(x)
    low, high = _range(p)

    def work(rows: slice) -> None:
        s = grid.scales[rows, :, None]
        z = 0.0 if grid.zeros is None else grid.zeros[rows, :, None]
        torch.div(x[rows], s, out=out[rows]).round_().add_(z).clamp_(low, high).sub_(z).mul_(s)

    _over_rows(w, work)
    return out.view(w.shape)


@torch.no_grad()
def fake_quantise_activations(x: Tensor, p: Precision) -> Tensor:
    """`x[..., tokens, k]` as the ONNX Runtime kernel of precision `p` sees it (checked against ORT in the tests).

    Groups: MatMulNBits at accuracy_level 4 rounds each row's blocks of `group` inputs to symmetric int8 (and what no
    kernel runs, such as `w4a4g128`, to as many bits).
    Per channel: DynamicQuantizeMatMul rounds its whole input to asymmetric uint8 with one scale; leading dimensions
    are separate calls here (the deployed model runs one sequence a call), so `[batch, tokens, k]` gets `batch` scales.
    fp8: e4m3 with a scale per token, as the Triton kernel does. Activations of 16 or more bits are returned as they
    are. No gradient flows (see `fake_quantise`).
    """
    if p.act_bits >= 16:
        return x
    if p.float8:
        return _rows_in_e4m3(x)
    if p.group:
        blocks = x.float().unflatten(-1, (-1, p.group))  # [..., tokens, k / group, group]
        peak, top = blocks.abs().amax(-1, keepdim=True), 2 ** (p.act_bits - 1) - 1
        out = (blocks * (top / peak.clamp_min(TINY))).round_().mul_(peak / top)
        return out.view(x.shape).to(x.dtype)
    dims = (-2, -1) if x.ndim > 1 else (-1,)
    low, high = x.float().amin(dims, keepdim=True).clamp_max(0), x.float().amax(dims, keepdim=True).clamp_min(0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, 1.0, scale)
    zero = (-low / scale).round_().clamp_(0, 255)
    return (x / scale).round_().add_(zero).clamp_(0, 255).sub_(zero).mul_(scale).to(x.dtype)


def fp8_scales(rows: Tensor) -> Tensor:
    """fp32 `[..., 1]`: what brings the largest value of each row to e4m3's."""
    return (rows.float().abs().amax(-1, keepdim=True) / FP8_TOP).clamp_min(TINY)


def _rows_in_e4m3(x: Tensor) -> Tensor:
    scales = fp8_scales(x)
    return ((x.float() / scales).to(torch.float8_e4m3fn).float() * scales).to(x.dtype)


def _over_rows(w: Tensor, work: Callable[[slice], None]) -> None:
    """`work` on slices of `_CHUNK` elements of `w[n, k]`, on as many threads as torch has, each computing alone.

    Threads inside each small operation would meet at its end; on a busy machine that wait was 100 times the work.
    A GPU takes all rows at once.
    """
    rows, width = w.shape
    if w.device.type != "cpu":
        work(slice(0, rows))
        return
    threads, step = torch.get_num_threads(), max(1, _CHUNK // width)
    slices = [slice(i, i + step) for i in range(0, rows, step)]

    @torch.no_grad()
    def alone(part: slice) -> None:
        torch.set_num_threads(1)
        work(part)

    try:
        if threads == 1 or len(slices) == 1:
            for part in slices:
                alone(part)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(alone, slices))
    finally:
        torch.set_num_threads(threads)


def _top(p: Precision) -> int:
    return 127 if p.symmetric else 2**p.weight_bits - 1


def _range(p: Precision) -> tuple[int, int]:
    return (-127, 127) if p.symmetric else (0, _top(p))


def _groups(w: Tensor, p: Precision) -> Tensor:
    """`[n, k]` -> contiguous fp32 `[n, groups, group]`."""
    n, k = w.shape
    group = p.group or k
    if p.is_float:
        raise HwfitError(f"precision '{p}' has no integer grid; integer precisions have 8, 4, 3 or 2 weight bits")
    if k % group:
        raise HwfitError(f"group size {group} of {p} does not divide the input width {k} of a [{n}, {k}] weight")
    return w.detach().float().contiguous().view(n, k // group, group)


def _span_grid(low: Tensor, high: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point of an asymmetric grid over [low, high], which holds 0."""
    scale = ((high - low) / top).clamp_min(TINY)
    return scale, (-low / scale).round_().clamp_(0, top)


def _search(x: Tensor, importance: Tensor | None, p: Precision) -> tuple[Tensor, Tensor]:
    """Best scale and zero point of each column of `x[group, columns]`."""
    top = _top(p)
    buffer = torch.empty_like(x)

    def codes(s: Tensor, z: Tensor) -> Tensor:  # signed codes (code - zero), [group, columns]
        torch.div(x, s, out=buffer).round_()
        return buffer.clamp_(-top, top) if p.symmetric else buffer.add_(z).clamp_(0, top).sub_(z)

    def error(s: Tensor, z: Tensor) -> Tensor:  # [columns]
        d = codes(s, z).mul_(s).sub_(x).square_()
        return (d if importance is None else d.mul_(importance)).sum(0)

    low, high = x.amin(0).clamp_max_(0), x.amax(0).clamp_min_(0)
    peak = torch.maximum(-low, high)
    best_s, best_z = (
        ((peak / top).clamp_min(TINY), torch.zeros_like(peak)) if p.symmetric else _span_grid(low, high, top)
    )
    best = error(best_s, best_z)

    def consider(s: Tensor, z: Tensor) -> None:
        nonlocal best, best_s, best_z
        e = error(s, z)
        better = e < best
        best, best_s, best_z = (
            torch.where(better, e, best),
            torch.where(better, s, best_s),
            torch.where(better, z, best_z),
        )

    zero = torch.zeros_like(peak)
    for ratio in _RATIOS[p.weight_bits]:
        if p.symmetric:
            consider((peak * (ratio / top)).clamp_min_(TINY), zero)
            continue
        s = ((high - low) * (ratio / top)).clamp_min_(TINY)
        exact = -low * ratio / s
        for z in (exact.floor(), exact.ceil()):
            consider(s, z.clamp_(0, top))
    for _ in range(2):  # least squares: the scale that fits the winner's codes
        c = codes(best_s, best_z).clone()
        weighted = c if importance is None else c * importance
        fitted = (weighted * x).sum(0) / (weighted * c).sum(0).clamp_min(TINY**2)
        consider(torch.where(fitted > TINY, fitted, best_s), best_z)
    return best_s, best_z
