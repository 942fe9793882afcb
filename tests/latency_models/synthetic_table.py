"""A made-up device: every op's seconds from a formula, and tables of them."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import pandas as pd

from hwfit.kernels.op import Op
from hwfit.lut_store.schema import Measurement, to_arrow
from hwfit.precision import Precision
from hwfit.space import LINEAR_WIDTHS, Space
from hwfit.subnet import ModelShape
from hwfit.workload import Phase, Workload

DEVICE = "made-up"
WORKLOAD = Workload(batch=1, prompt=16, generate=8, context=24)
SMOLLM = ModelShape(hidden=576, heads=9, kv_heads=3, head_size=64, mlp=1536, blocks=30, vocab=49152)
BANDWIDTH, PEAK, START = 2e10, 8e10, 2e-6


def seconds(op: Op) -> float:
    """Roofline: a start-up cost, then the slower of reading the weights and multiplying."""
    if op.kind == "attention":
        return START + op.n * op.head_size * (op.m * op.context * 4 / PEAK + 8 / BANDWIDTH)
    if op.kind in ("norm", "swiglu"):
        return START + op.m * op.k * 12 / BANDWIDTH
    p = Precision.parse(op.precision)
    if op.kind == "embed":
        return START + op.m * op.k * p.weight_bits / 8 / BANDWIDTH
    return START + p.weight_bytes(op.n, op.k) / BANDWIDTH + 2 * op.m * op.n * op.k / PEAK * (p.weight_bits + 8) / 40


def frame(ops: Iterable[Op], law: Callable[[Op], float] = seconds, **changes) -> pd.DataFrame:
    """The rows of a table in which every op was measured exactly as `law` says."""
    rows = [
        replace(
            Measurement(op=op, status="OK", device=DEVICE, backend="none", p10=law(op), half_width=0.01 * law(op)),
            **changes,
        )
        for op in ops
    ]
    return to_arrow(rows).to_pandas()


def space_ops(space: Space, phase: Phase) -> list[Op]:
    """Every op of the space, spelled out independently of `hwfit.latency_models`."""
    m, q = phase.m, [a * d for a in space.heads for d in space.head_size]
    kv = [space.kv_heads(a) * d for a in space.heads for d in space.head_size]
    sizes = {"hidden": space.hidden, "mlp": space.mlp, "q": q, "kv": kv, "vocab": [space.shape.vocab]}
    ops = [
        Op("linear", phase.batch if name == "lm_head" else m, n, k, p.name)
        for name, (outs, ins) in LINEAR_WIDTHS.items()
        for n in sizes[outs]
        for k in sizes[ins]
        for p in space.precisions
    ]
    ops += [Op("norm", m, 0, h) for h in space.hidden] + [Op("swiglu", m, 0, w) for w in space.mlp]
    ops += [Op("embed", m, space.shape.vocab, h, space.embed.name) for h in space.hidden]
    ops += [
        Op("attention", m, a, space.kv_heads(a), head_size=d, context=phase.context)
        for a in space.heads
        for d in space.head_size
    ]
    return list(dict.fromkeys(ops))


def tiny_space(blocks: int = 2) -> Space:
    """Two choices on every axis (depth: one a block), two precisions."""
    return Space(
        shape=ModelShape(hidden=128, heads=4, kv_heads=2, head_size=32, mlp=256, blocks=blocks, vocab=96),
        hidden=(128, 64),
        heads=(4, 2),
        head_size=(32, 16),
        mlp=(256, 128),
        depth=tuple(range(blocks, 0, -1)),
        precisions=(Precision.parse("w32"), Precision.parse("w4a8g32")),
        embed=Precision.parse("w8a8g32"),
    )
