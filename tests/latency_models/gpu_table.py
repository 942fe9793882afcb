"""A dense table of a GPU that does not exist, with kernels whose times are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hwfit.kernels.op import Op, linear
from hwfit.lut_store.facts import KEY, Facts
from hwfit.lut_store.schema import Measurement, RunInfo
from hwfit.lut_store.table import Table
from hwfit.precision import Precision

DEVICE = "gpu-x"
FACTS = Facts(1e12, 1e14, 2e14, multiprocessors=100, memory=80 << 30)
MS = (1, 2, 8, 16, 64, 256, 1024, 4096)
WIDTHS = (256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192)


def true_seconds(op: Op) -> float:
    """A roofline whose arithmetic comes in waves of 128 x 128 tiles."""
    p = Precision.parse(op.precision)
    memory = op.n * op.k * p.weight_bits / 8 / 1e12
    waves = np.ceil(np.ceil(op.m / 128) * np.ceil(op.n / 128) / 100)
    compute = waves * 100 * 128 * 128 * 2 * op.k / (2e14 if p.act_bits == 8 else 1e14)
    return float(3e-6 + np.hypot(memory, compute))


def attention_seconds(op: Op) -> float:
    return 5e-6 + 1e-9 * op.m * op.context


def write_table(folder: Path, noise: float = 0.0, precisions: tuple[str, ...] = ("w16a16", "w4a16")) -> Table:
    generator = np.random.default_rng(0)
    ops = [linear(m, n, k, p) for p in precisions for m in MS for n in WIDTHS for k in WIDTHS]
    decode = [Op("attention", b, 32, 8, head_size=128, context=c) for b in (1, 2, 4) for c in (64, 256, 1024, 4096)]
    prefill = [Op("attention", b * c, 32, 8, head_size=128, context=c) for b in (1, 2, 4) for c in (64, 256, 1024)]
    rows = [
        Measurement(
            op=op,
            status="OK",
            device=DEVICE,
            backend="test",
            run_id="r",
            p10=(true_seconds(op) if op.kind == "linear" else attention_seconds(op))
            * float(np.exp(noise * generator.standard_normal())),
        )
        for op in (*ops, *decode, *prefill)
    ]
    table = Table(folder)
    run = RunInfo(
        run_id="r", device=DEVICE, fingerprint={KEY: FACTS.to_dict()}, versions={}, commit="", load=0.0, started=1.0
    )
    table.append(rows, run)
    return table
