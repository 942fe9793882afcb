"""Compensation: the kept inputs of a pruned linear take over, by least squares, what the dropped ones contributed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hwfit.deploy.slice import channels, module_name
from hwfit.search.importance import Ordered
from hwfit.space import LINEAR_WIDTHS
from hwfit.subnet import ModelShape, Subnet

RIDGE = 1e-2
PRUNED = ("o_proj", "down_proj")


@torch.no_grad()
def compensated(sliced: Mapping[str, Tensor], ordered: Ordered, shape: ModelShape, subnet: Subnet) -> dict[str, Tensor]:
    """`sliced` with new weights for every `o_proj` and `down_proj` that lost inputs.

    With C = E[x x'] over calibration text and S the kept inputs, W[:, S] becomes W C[:, S] (C[S, S] + ridge)^-1: the
    least-squares fit to the full layer's output (as in SliceGPT's and OBS's closed forms), before any training.
    """
    out = dict(sliced)
    for i, block in enumerate(subnet.blocks):
        for name in PRUNED:
            rows, kept = (channels(width, shape, subnet, i) for width in LINEAR_WIDTHS[name])
            target = f"{module_name(i, name)}.weight"
            source = module_name(block, name)
            weight, moment = ordered.weights[f"{source}.weight"], ordered.moments[source]
            if out[target].shape[1] == weight.shape[1]:
                continue
            moment = moment.to(weight.device)
            within = moment[kept][:, kept]
            within = within + RIDGE * within.diagonal().mean() * torch.eye(len(within), device=within.device)
            fitted = torch.linalg.solve(within, moment[kept] @ weight[rows].T)  # [kept, rows]
            out[target] = fitted.T.contiguous()
    return out
