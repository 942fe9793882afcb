"""Continuous widths: an axis of a space as a smooth function of the width, so that a width itself can have a gradient.

`ExpectedCost` is linear in each axis, so any interpolation that is linear in the prices is a vector of weights over the
axis's choices. Here: cubic Hermite pieces whose slopes are second-order differences of the neighbours (Catmull-Rom on
uneven nodes); exact at every width of the axis, with a continuous derivative between and across them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.interpolate import CubicHermiteSpline
from torch import Tensor, nn

from hwfit.errors import HwfitError


class SmoothAxis(nn.Module):
    """`forward(widths [...]) -> [..., choices]`: what to put into `Choices` for an axis at continuous widths.

    `axis` holds at least two widths in any order, as a `Space` has them. Weights sum to 1 but are no probabilities:
    next to a choice, its neighbours' may be a little below 0. Beyond its ends an axis is held at them, with gradient 0.
    Raises `HwfitError` for fewer widths or equal ones.
    """

    nodes: Tensor  # [choices], ascending
    pieces: Tensor  # [choices - 1, 4, choices]: cubic coefficients of every choice's weight, highest power first

    def __init__(self, axis: Sequence[int], dtype: torch.dtype = torch.float64):
        super().__init__()
        if len(axis) < 2 or len(set(axis)) < len(axis):
            raise HwfitError(f"axis {tuple(axis)} must hold at least two different widths to be continuous")
        order = np.argsort(axis)
        nodes = np.asarray(axis, dtype=np.float64)[order]
        values = np.eye(len(axis))[order]  # [nodes, choices]
        slopes = np.gradient(values, nodes, axis=0, edge_order=2 if len(axis) > 2 else 1)
        pieces = CubicHermiteSpline(nodes, values, slopes).c.transpose(1, 0, 2)
        self.register_buffer("nodes", torch.tensor(nodes, dtype=dtype))
        self.register_buffer("pieces", torch.tensor(pieces, dtype=dtype))

    def forward(self, widths: Tensor) -> Tensor:
        x = widths.to(self.nodes.dtype).clamp(self.nodes[0], self.nodes[-1])
        piece = torch.bucketize(x.detach(), self.nodes[1:-1], right=True)
        along = (x - self.nodes[piece])[..., None]
        cubic, square, slope, start = self.pieces[piece].unbind(-2)
        return ((cubic * along + square) * along + slope) * along + start
