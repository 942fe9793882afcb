"""Breakdown: where the predicted time of a forward call goes, by kind of layer."""

from __future__ import annotations

from hwfit.kernels.op import linear, subnet_ops
from hwfit.latency_models.whole import WholeModel
from hwfit.subnet import Subnet
from hwfit.workload import Phase


def breakdown(model: WholeModel, subnet: Subnet, phase: Phase) -> dict[str, float]:
    """Seconds by layer kind: every linear's name, attention, norm, swiglu, embed, and what is left as overhead."""
    out: dict[str, float] = {}
    for name, (n, k, p) in subnet.linears.items():
        kind = name.rpartition(".")[2]
        m = phase.batch if kind == "lm_head" else phase.m
        out[kind] = out.get(kind, 0.0) + model.price(linear(m, n, k, p.name))
    for op, count in subnet_ops(subnet, phase).items():
        if op.kind != "linear":
            out[op.kind] = out.get(op.kind, 0.0) + count * model.price(op)
    out["overhead"] = max(0.0, model.predict(subnet, phase).value - sum(out.values()))
    return out
