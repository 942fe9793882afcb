"""A made-up GPU whose table can be replayed: a roofline, tiles that fill waves, and jumps between kernels."""

from __future__ import annotations

import math
from pathlib import Path

from hwfit.kernels.op import Op
from hwfit.lut_store.facts import KEY, Facts
from hwfit.lut_store.schema import Measurement, RunInfo
from hwfit.lut_store.table import Table
from hwfit.precision import Precision
from hwfit.profiler.anchor import OPS

GPU = "made-up-gpu"
FACTS = Facts(bandwidth=1.5e12, flops16=3e14, flops8=6e14, multiprocessors=108, memory=80 << 30, l2=40 << 20)


def seconds(op: Op) -> float:
    """What an op takes; a smaller tile wherever it leaves fewer multiprocessors idle."""
    p = Precision.parse(op.precision)
    read = (op.n * op.k * min(16, p.weight_bits) + 16 * op.m * (op.n + op.k)) / 8
    waves = [
        math.ceil(math.ceil(op.m / bm) * math.ceil(op.n / bn) / FACTS.multiprocessors) * bm * bn * slower
        for bm, bn, slower in ((128, 128, 1.0), (64, 64, 1.4))
    ]
    compute = 2 * min(waves) * FACTS.multiprocessors * op.k / FACTS.flops(p.act_bits)
    return 3e-6 + math.hypot(read / FACTS.bandwidth, compute)


def make_table(path: Path, ops: list[Op], facts: Facts | None = FACTS) -> Table:
    """`ops` and a GPU's anchors as rows of `GPU`."""
    anchors = [op for op, _ in (*OPS["cuda"].pieces["few"], *OPS["cuda"].pieces["many"])]
    run = RunInfo(
        run_id="one",
        device=GPU,
        fingerprint={KEY: facts.to_dict()} if facts else {},
        versions={},
        commit="",
        load=0.0,
        started=0.0,
    )
    rows = [
        Measurement(op=op, status="OK", device=GPU, backend="made up", p10=seconds(op), half_width=0.0, samples=1)
        for op in dict.fromkeys([*anchors, *ops])
    ]
    table = Table(path)
    table.append(rows, run)
    return table
