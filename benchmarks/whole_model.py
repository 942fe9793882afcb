"""Predicted against measured latency of random subnets that were not used in fitting, in turns with the cells.

Which models the overhead is fitted on is drawn anew `SPLITS` times: figures are means over the draws (`worst` is the
worst of all), for the luck of a few models decides much of one draw's.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from benchmarks.common import parser, publish
from hwfit.deploy.bundle import random_bundle
from hwfit.deploy.onnx_graph import write_onnx
from hwfit.deploy.runtime import OnnxModel
from hwfit.files import write_text
from hwfit.latency_models.lookup import Lookup
from hwfit.latency_models.whole import WholeModel, fit_overhead
from hwfit.lut_store.table import Table
from hwfit.models.llama import load_config, load_shape, open_model
from hwfit.profiler.anchor import Anchor
from hwfit.profiler.device_kinds import fingerprint, get_backend
from hwfit.profiler.protocol import Rules
from hwfit.profiler.run import profile
from hwfit.profiler.subnets import max_tokens
from hwfit.profiler.whole import time_models
from hwfit.progress import track
from hwfit.space import Space
from hwfit.subnet import Subnet
from hwfit.workload import PHASES, Phase, Workload

SPLITS = 20


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--model", default="smollm2-135m")
    arguments.add_argument("--n", type=int, default=12, help="subnets to predict")
    arguments.add_argument(
        "--fit", type=int, default=16, help="other subnets to fit the overhead on, as many as `hwfit profile` times"
    )
    arguments.add_argument("--every", type=int, default=7, help="batches of cells between two timings of all models")
    arguments.add_argument("--seconds", type=float, default=Rules().seconds, help="seconds a cell")
    arguments.add_argument("--keep", type=Path, help="a new folder for the table, the subnets and each pass's seconds")
    options = arguments.parse_args()
    model = open_model(options.model)
    config, space, workload = load_config(model), Space.default(load_shape(model)), Workload()
    rng = random.Random(2024)
    subnets = [space.sample(rng) for _ in range(options.fit + options.n)]
    device = fingerprint("cpu")
    with tempfile.TemporaryDirectory() as folder:
        table = Table((options.keep or Path(folder)) / "table")
        models = {}
        with track(len(subnets), "Deploying") as advance:
            for i, subnet in enumerate(subnets):
                path = write_onnx(random_bundle(subnet, config, i), Path(folder) / "m.onnx", max_tokens(workload))
                models[str(i)] = OnnxModel(path)
                advance()
        passes: list[dict[str, dict[str, float]]] = []
        batches = 0

        def time_all() -> None:
            anchor = Anchor.of_table(get_backend("cpu"), device, table)
            times = time_models(models, workload, 0.0, anchor)
            passes.append({name: {p: t.p10 for p, t in by_phase.items()} for name, by_phase in times.items()})

        def between() -> None:
            nonlocal batches
            batches += 1
            if batches % options.every == 1:
                time_all()

        report = profile(
            space, workload, "cpu", table, coarse=True, rules=Rules(seconds=options.seconds), between=between
        )
        time_all()
        lookup = Lookup.fit(table.read(device.key), device.key)
        measured = [
            {p: float(np.median([run[str(i)][p] for run in passes])) for p in PHASES} for i in range(len(subnets))
        ]
        figures = {"cells": float(report.measured), "unstable": float(report.unstable), "passes": float(len(passes))}
        for phase in PHASES:
            want = np.array([m[phase] for m in measured])
            splits = [
                _split(lookup, subnets, want, workload.phase(phase), options.fit, i, device.cache)
                for i in range(SPLITS)
            ]
            figures |= {f"{phase}.{name}": float(np.mean([s[name] for s in splits])) for name in splits[0]}
            figures |= {
                f"{phase}.worst": max(s["worst"] for s in splits),
                f"{phase}.fastest_ms": float(want.min() * 1e3),
                f"{phase}.slowest_ms": float(want.max() * 1e3),
                f"{phase}.pass_spread": _spread(passes, phase),
            }
        if options.keep:
            kept = {"fit": options.fit, "subnets": [json.loads(s.to_json()) for s in subnets], "passes": passes}
            write_text(options.keep / "passes.json", json.dumps(kept))
    publish("whole_model", figures, options.json)


def _split(
    lookup: Lookup, subnets: list[Subnet], want: np.ndarray, phase: Phase, fit: int, seed: int, cache: int
) -> dict[str, float]:
    """How well `fit` models, drawn anew for each seed, predict the others; `want` is seconds `[models]`."""
    order = np.random.default_rng(seed).permutation(len(subnets))
    runs = [(subnets[i], phase, float(want[i])) for i in order[:fit]]
    predictor = WholeModel(lookup, fit_overhead(lookup, runs, cache))
    held_out = order[fit:]
    said = [predictor.predict(subnets[i], phase) for i in held_out]
    got, true = np.array([estimate.value for estimate in said]), want[held_out]
    error = got / true - 1
    return {
        "mape": float(np.abs(error).mean()),
        "hit10": float(np.mean(np.abs(error) <= 0.1)),
        "coverage": float(np.mean([e.low <= t <= e.high for e, t in zip(said, true, strict=True)])),
        "width": float(np.mean([(e.high - e.low) / e.value for e in said])),
        "worst": float(np.abs(error).max()),
        "bias": float(error.mean()),
        "spearman": float(spearmanr(got, true).statistic),  # pyright: ignore[reportAttributeAccessIssue]
    }


def _spread(passes: list[dict[str, dict[str, float]]], phase: str) -> float:
    """Median over models of (largest - smallest) / median between the passes: how well a measurement repeats."""
    values = np.array([[run[name][phase] for run in passes] for name in passes[0]])
    return float(np.median((values.max(1) - values.min(1)) / np.median(values, 1)))


if __name__ == "__main__":
    main()
