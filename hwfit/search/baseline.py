"""Baseline: the whole model at one precision, the fastest there is, which is what a search has to beat."""

from __future__ import annotations

from dataclasses import replace

from hwfit.errors import HwfitError
from hwfit.latency_models.whole import WholeModel
from hwfit.search.strategies.picks import uniform_precisions
from hwfit.space import Space
from hwfit.subnet import LINEARS, Subnet
from hwfit.workload import Phase


def fastest_uniform(space: Space, latency: WholeModel, phase: Phase) -> Subnet:
    """The whole model at the one of `uniform_precisions` that is predicted to be fastest in `phase`.

    The LM head has the same precision where the space lets it, else the fastest it may have. Raises `HwfitError` where
    the space has no such precision.
    """
    heads = [space.precisions[i] for i in space.options("lm_head")]
    offered = [space.precisions[i] for i in uniform_precisions(space)]
    if not offered:
        there = ", ".join(space.precisions[i].name for i in space.options(LINEARS[0]))
        raise HwfitError(
            f"no whole model at one precision to compare with: the space offers {there} for its linears; "
            "needed: an integer precision of 4 bits or more"
        )
    whole = {p: Subnet.whole(space.shape, p, space.embed) for p in offered}
    subnets = [replace(whole[p], lm_head=head) for p in offered for head in ([p] if p in heads else heads)]
    return min(subnets, key=lambda subnet: latency.from_memory.predict(subnet, phase).value)
