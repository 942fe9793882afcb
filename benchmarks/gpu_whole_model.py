"""The sum of the table against a whole Llama-3.1-8B shape with random weights on a GPU, decode and prefill.

Figures: `<precision>.decode.error` and `.prefill.error`, the sum of the layers over the measured call less 1, no
overhead fitted; `decode.error` and `prefill.error`, the worst of them without sign.
"""

from __future__ import annotations

from argparse import Namespace
from statistics import fmean

import torch

from benchmarks.common import parser
from benchmarks.gpu_common import Limits, gpu, limits, publish, run, watch
from hwfit.deploy.cuda_model import CudaModel
from hwfit.kernels.cuda import CudaBackend
from hwfit.kernels.op import Op, subnet_ops
from hwfit.precision import Precision
from hwfit.profiler.anchor import Anchor
from hwfit.profiler.protocol import Rules, batches, default_rules, measure
from hwfit.profiler.whole import Timing, time_models
from hwfit.profiler.whole_models import max_tokens
from hwfit.progress import track
from hwfit.subnet import ModelShape, Subnet
from hwfit.workload import PHASES, PhaseName, Workload

CONFIG = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128_256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
}
"""Sizes of Llama-3.1-8B; its scaled rotary frequencies cost what plain ones do."""


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--precisions", nargs="+", default=["w16a16", "w8a8", "w4a16g128"])
    arguments.add_argument("--prompt", type=int, default=1024)
    arguments.add_argument("--context", type=int, default=1024)
    arguments.add_argument("--batch", type=int, default=1)
    arguments.add_argument("--seconds", type=float, default=4.0, help="seconds a pass over the whole model")
    options = arguments.parse_args()
    precisions = [Precision.parse(name) for name in options.precisions]
    backend = gpu()
    timer = watch(backend)
    ceilings = limits(backend, timer)
    figures = {"copy.tb_s": ceilings.copy / 1e12, "peak.bf16_tflops": ceilings.peak / 1e12}
    anchor = Anchor(backend, backend.l2)
    for precision in precisions:
        figures |= _one(precision, options, backend, anchor, ceilings)
    for phase in PHASES:
        figures[f"{phase}.error"] = max(abs(figures[f"{p}.{phase}.error"]) for p in precisions)
    publish("gpu_whole_model", figures, options.json)


def _one(
    precision: Precision, options: Namespace, backend: CudaBackend, anchor: Anchor, ceilings: Limits
) -> dict[str, float]:
    """Whole model, then its layers, then the whole model again: drift between them would show."""
    workload = Workload(options.batch, options.prompt, 128, options.context)
    subnet = Subnet.whole(ModelShape.from_config(CONFIG), precision, "w16a16")
    model = CudaModel.random(subnet, CONFIG, backend.kit, backend.launcher, max_tokens(workload))
    passes = [_timed(model, workload, options.seconds, anchor)]
    prices = _prices(subnet, workload, backend, anchor, default_rules("cuda"))
    passes.append(_timed(model, workload, options.seconds, anchor))
    del model
    torch.cuda.empty_cache()
    out: dict[str, float] = {}
    for phase in PHASES:
        values = [found[phase].p10 for found in passes]
        total = sum(count * prices[op] for op, count in subnet_ops(subnet, workload.phase(phase)).items())
        name = f"{precision}.{phase}"
        out |= {
            f"{name}.measured_ms": fmean(values) * 1e3,
            f"{name}.sum_ms": total * 1e3,
            f"{name}.error": total / fmean(values) - 1,
            f"{name}.pass_spread": (max(values) - min(values)) / fmean(values),
        }
    decode = out[f"{precision}.decode.measured_ms"] / 1e3
    linears = sum(backend.kit.weight_bytes(p, n, k) for n, k, p in subnet.linears.values())
    return out | {f"{precision}.decode.copy_share": linears / decode / ceilings.copy}


def _timed(model: CudaModel, workload: Workload, seconds: float, anchor: Anchor) -> dict[PhaseName, Timing]:
    return time_models({"whole": model}, workload, seconds, anchor)["whole"]


def _prices(subnet: Subnet, workload: Workload, backend: CudaBackend, anchor: Anchor, rules: Rules) -> dict[Op, float]:
    """Seconds of every distinct op of both phases."""
    ops = sorted({op for phase in PHASES for op in subnet_ops(subnet, workload.phase(phase))})
    prices: dict[Op, float] = {}
    with track(len(ops), "Timing layers") as advance:
        for group in batches(ops, backend, backend.l2, rules):
            for reading in measure(group, backend, anchor, backend.l2, rules):
                prices[reading.op] = reading.summary.p10
            advance(len(group))
    return prices


if __name__ == "__main__":
    run(main)
