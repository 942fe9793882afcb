"""Baseline: the whole model at one precision, the fastest there is, which is what a search has to beat."""

from __future__ import annotations

from dataclasses import replace

from hwfit.latency_models.whole import WholeModel
from hwfit.search.budget import Budget
from hwfit.search.strategies.picks import uniform_precisions
from hwfit.space import Space
from hwfit.subnet import Subnet
from hwfit.workload import PHASES, PhaseName, Workload


def fastest_uniform(space: Space, latency: WholeModel, workload: Workload, limits: Budget) -> Subnet | None:
    """The whole model at the one of `uniform_precisions` that is predicted to be fastest.

    In the phase that is limited, decode if both or neither are; None where the space has no such precision.
    The LM head has the same precision where the space lets it, else the fastest it may have.
    """
    limited: list[PhaseName] = [name for name in PHASES if limits.as_dict().get(name)]
    phase = workload.phase(limited[0] if limited else PHASES[0])
    heads = [space.precisions[i] for i in space.options("lm_head")]
    offered = [space.precisions[i] for i in uniform_precisions(space)]
    whole = {p: Subnet.whole(space.shape, p, space.embed) for p in offered}
    subnets = [replace(whole[p], lm_head=head) for p in offered for head in ([p] if p in heads else heads)]
    return min(subnets, key=lambda subnet: latency.predict(subnet, phase).value, default=None)
