"""Compensation: the kept inputs of a pruned linear take over, by ridge regression, what the dropped ones gave."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hwfit.deploy.slice import channels, module_name
from hwfit.search.importance import Ordered
from hwfit.space import LINEAR_WIDTHS
from hwfit.subnet import ModelShape, Subnet

RIDGE = 0.1
"""Of each input's own mean square. Calibration has only a few times more tokens than an MLP has neurons: what they
explain by chance is to be left alone."""
EPS = 1e-6
PRUNED = ("o_proj", "down_proj")


@torch.no_grad()
def compensated(
    sliced: Mapping[str, Tensor], ordered: Ordered, shape: ModelShape, subnet: Subnet, ridge: float = RIDGE
) -> dict[str, Tensor]:
    """`sliced` with new weights for every `o_proj` and `down_proj` that lost inputs.

    With C = E[x x'] over calibration text, S the kept inputs and D the dropped ones, W[:, S] gains
    W[:, D] C[D, S] (C[S, S] + ridge diag C[S, S])^-1: without a ridge the least-squares fit to the full layer's output
    (as in SliceGPT's and OBS's closed forms); a ridge draws towards the weights as they were, not towards zero.
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
            within, whole = moment[kept][:, kept], weight[rows]
            missed = moment[kept] @ whole.T - within @ whole[:, kept].T  # [kept, rows]
            floor = ridge * within.diagonal().clamp_min(EPS * within.diagonal().max())
            gained = torch.linalg.solve(within + torch.diag(floor), missed).T  # [rows, kept]
            out[target] = (whole[:, kept] + gained).contiguous()
    return out
