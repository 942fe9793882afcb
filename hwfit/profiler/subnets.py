"""Subnets timed whole: deployed with random weights (latency does not depend on values), in turns with the anchors."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwfit.lut_store.table import Table
from hwfit.lut_store.whole_runs import WholeRun, append_runs, read_runs
from hwfit.profiler.anchor import Anchor
from hwfit.profiler.device_kinds import fingerprint, get_backend
from hwfit.profiler.whole import Timing, time_models
from hwfit.profiler.whole_models import groups, max_tokens, random_models
from hwfit.space import Space
from hwfit.subnet import Subnet
from hwfit.workload import PHASES, PhaseName, Workload

__all__ = ["max_tokens", "p10s", "profile_models", "time_subnets"]


def time_subnets(
    subnets: Mapping[str, Subnet],
    config: Mapping[str, Any],
    workload: Workload,
    tables: Path | None = None,
    device: str = "cpu",
    seconds_per_model: float = 4.0,
    progress: bool = True,
) -> dict[str, dict[PhaseName, Timing]]:
    """Deploy each subnet with random weights and time all that the device can hold at once interleaved; `config` is
    the original's."""
    anchor = Anchor.of_table(get_backend(device), fingerprint(device), Table(tables))
    times: dict[str, dict[PhaseName, Timing]] = {}
    for group in groups(device, subnets, workload):
        with random_models(device, group, config, workload, progress) as models:
            times |= time_models(models, workload, seconds_per_model, anchor, progress)
    return times


def p10s(times: Mapping[str, Mapping[PhaseName, Timing]]) -> dict[str, dict[str, float]]:
    """Seconds by name and phase of what `time_subnets` gave, as a search takes them."""
    return {name: {phase: t.p10 for phase, t in by_phase.items()} for name, by_phase in times.items()}


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
    todo = {f"random {i}": subnet for i, subnet in enumerate(wanted[:count]) if subnet not in have}
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
