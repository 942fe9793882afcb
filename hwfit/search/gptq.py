"""GPTQ: weights moved so that rounding them loses less of the layer's output (arXiv 2210.17323)."""

from __future__ import annotations

import torch
from torch import Tensor

from hwfit.kernels.quantise import Grid, clipped_grid, fake_quantise
from hwfit.precision import Precision

DAMP = 0.01
"""What is added to the moments' diagonal, of its mean."""
BATCH = 128
"""Inputs rounded before what they leave is spread over all later ones."""


@torch.no_grad()
def gptq(weight: Tensor, precision: Precision, moments: Tensor, grid: Grid | None = None) -> Tensor:
    """`weight[n, k]` in fp32, moved so that `fake_quantise(result, precision, grid)` is its GPTQ rounding.

    Inputs are rounded one after another, each error made up for by all inputs that are not rounded yet. `moments[k, k]`
    is E[x x'] of the inputs; `grid` defaults to `clipped_grid`'s for their energy. The result lies between grid points
    where a later training step can move it to the next, and is not itself on the grid. A float precision has no grid
    to make up for: `weight` comes back as it is. Same errors as `clipped_grid`.
    """
    if precision.is_float:
        return weight
    grid = grid or clipped_grid(weight, precision, moments.diagonal())
    moved, k = weight.float().clone(), weight.shape[1]
    upper = _inverse_root(moments)
    group = precision.group or k
    for start in range(0, k, BATCH):
        stop = min(start + BATCH, k)
        errors = torch.zeros(len(moved), stop - start, device=moved.device)
        for i in range(start, stop):
            g = i // group
            one = Grid(grid.scales[:, g : g + 1], None if grid.zeros is None else grid.zeros[:, g : g + 1])
            error = (moved[:, i] - _rounded(moved[:, i], precision, one)) / upper[i, i]
            moved[:, i + 1 : stop] -= torch.outer(error, upper[i, i + 1 : stop])
            errors[:, i - start] = error
        moved[:, stop:] -= errors @ upper[start:stop, stop:]
    return moved


def _inverse_root(moments: Tensor) -> Tensor:
    """Upper triangular U, fp32, with U'U the inverse of the damped moments."""
    wide = moments.double()
    ridge = DAMP * wide.diagonal().mean().clamp_min(1e-30)
    wide = wide + ridge * torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(wide))
    return torch.linalg.cholesky(inverse, upper=True).float()


def _rounded(column: Tensor, precision: Precision, grid: Grid) -> Tensor:
    """One input's weights `[n]` on its group's grid."""
    alone = Precision(precision.weight_bits, precision.act_bits)
    return fake_quantise(column[:, None], alone, grid)[:, 0]
