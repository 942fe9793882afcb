"""Subnets timed whole: deployed with random weights (latency does not depend on values), in turns with the anchors."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwfit.deploy.bundle import random_bundle
from hwfit.deploy.onnx_graph import write_onnx
from hwfit.deploy.runtime import OnnxModel
from hwfit.kernels.registry import get_backend
from hwfit.lut_store.table import Table
from hwfit.lut_store.whole_runs import WholeRun, append_runs, read_runs
from hwfit.profiler.anchor import Anchor
from hwfit.profiler.device import fingerprint
from hwfit.profiler.whole import Timing, time_models
from hwfit.progress import track
from hwfit.space import Space
from hwfit.subnet import Subnet
from hwfit.workload import PHASES, PhaseName, Workload


def time_subnets(
    subnets: Mapping[str, Subnet],
    config: Mapping[str, Any],
    workload: Workload,
    tables: Path | None = None,
    device: str = "cpu",
    seconds_per_model: float = 4.0,
    progress: bool = True,
) -> dict[str, dict[PhaseName, Timing]]:
    """Deploy each subnet into a temporary folder and time all of them interleaved; `config` is the original's."""
    anchor = Anchor.of_table(get_backend(device), fingerprint(device), Table(tables))
    with tempfile.TemporaryDirectory(prefix="hwfit-") as folder:
        models: dict[str, OnnxModel] = {}
        with track(len(subnets), "Deploying", progress) as advance:
            for seed, (name, subnet) in enumerate(subnets.items()):
                path = write_onnx(
                    random_bundle(subnet, config, seed), Path(folder) / f"{seed}.onnx", max_tokens(workload)
                )
                models[name] = OnnxModel(path)
                path.unlink()
                advance(note=name)
        return time_models(models, workload, seconds_per_model, anchor, progress)


def profile_models(
    space: Space,
    config: Mapping[str, Any],
    workload: Workload,
    tables: Path | None = None,
    device: str = "cpu",
    count: int = 10,
    seconds_per_model: float = 4.0,
    seed: int = 0,
    progress: bool = True,
) -> int:
    """Time random whole subnets until the table's folder holds `count` for this device; returns how many were new.

    The whole model at its first precision is always the first of them.
    """
    store, key = Table(tables).path, fingerprint(device).key
    have = {run.subnet for run in read_runs(store, key)}
    rng = random.Random(seed)
    wanted = [Subnet.whole(space.shape, space.precisions[0], space.embed)]
    wanted += [space.sample(rng) for _ in range(count - 1)]
    todo = {f"random {i}": subnet for i, subnet in enumerate(wanted) if subnet not in have}
    if todo:
        times = time_subnets(todo, config, workload, tables, device, seconds_per_model, progress)
        append_runs(
            store,
            key,
            [
                WholeRun(subnet, workload.phase(p), (t := times[name][p]).p10, t.low, t.high)
                for name, subnet in todo.items()
                for p in PHASES
            ],
        )
    return len(todo)


def max_tokens(workload: Workload) -> int:
    """KV cache length that the workload needs, rounded up to a multiple of 128."""
    return -(-max(workload.prompt + workload.generate, workload.context + 1) // 128) * 128
