"""Whole-model timing: models take turns round by round with the anchors, so that their ratios survive drift."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import numpy as np

from hwfit.profiler.anchor import KINDS, Anchor, AnchorKind, Anchors
from hwfit.profiler.protocol import no_gc
from hwfit.profiler.stats import QUANTILE, RESAMPLES
from hwfit.progress import track
from hwfit.workload import PHASES, PhaseName, Workload

DECODE_BURST = 4
"""Consecutive decode steps a round; the first is not counted, it finds the caches full of another model."""
MIN_ROUNDS = 5


class TimedModel(Protocol):
    """What `deploy.runtime.OnnxModel` offers: seconds of one forward call with inputs bound beforehand."""

    def time_prefill(self, tokens: int) -> float: ...

    def time_decode(self, context: int) -> float: ...


@dataclass(frozen=True)
class Timing:
    """Seconds of one forward call, corrected to the anchor's reference; `raw` is the p10 as the clock saw it.

    `low`…`high` is the 95 % bootstrap interval of `p10` over whole rounds.
    """

    p10: float
    p50: float
    p90: float
    low: float
    high: float
    samples: int
    raw: float
    anchor: float
    anchor_reference: float


def time_models(
    models: Mapping[str, TimedModel],
    workload: Workload,
    seconds_per_model: float,
    anchors: Anchors,
    progress: bool = True,
) -> dict[str, dict[PhaseName, Timing]]:
    """Time decode and prefill of every model for about `seconds_per_model` each, at least `MIN_ROUNDS` rounds.

    Decode follows the `stream` anchor, prefill the `compute` anchor.
    """
    names = list(models)
    samples: dict[str, dict[PhaseName, list[list[float]]]] = {n: {p: [] for p in PHASES} for n in names}
    readings: dict[AnchorKind, list[float]] = {kind: [] for kind in KINDS}
    for model in models.values():
        _sample(model, workload)
    limit = seconds_per_model * len(names)
    start, spent, i = perf_counter(), 0.0, 0
    with no_gc(), track(round(limit), "measure", progress) as advance:
        while i < MIN_ROUNDS or spent < limit:
            for kind, seconds in readings.items():
                seconds.append(anchors[kind].sample())
            turn = i % len(names) if names else 0
            for name in names[turn:] + names[:turn]:
                for phase, times in _sample(models[name], workload).items():
                    samples[name][phase].append(times)
            i, before, spent = i + 1, spent, perf_counter() - start
            advance(spent - before, note=f"round {i}")
    settled = {phase: (a := anchors[kind], a.settle(readings[kind])) for phase, kind in zip(PHASES, KINDS, strict=True)}
    return {name: {phase: _timing(samples[name][phase], *settled[phase]) for phase in PHASES} for name in names}


def _sample(model: TimedModel, workload: Workload) -> dict[PhaseName, list[float]]:
    """Seconds of one round of one model."""
    prefill = model.time_prefill(workload.prompt)
    decode = [model.time_decode(workload.context) for _ in range(DECODE_BURST)]
    return {"decode": decode[1:], "prefill": [prefill]}


def _timing(rounds: list[list[float]], anchor: Anchor, reading: float) -> Timing:
    assert anchor.reference is not None
    x = np.asarray(rounds)  # [rounds, samples a round]
    raw = float(np.quantile(x, QUANTILE))
    x = x * (anchor.reference / reading)
    p10, p50, p90 = (float(q) for q in np.quantile(x, [QUANTILE, 0.5, 0.9]))
    draws = np.random.default_rng(0).integers(0, len(x), (RESAMPLES, len(x)))
    low, high = np.quantile(np.quantile(x[draws].reshape(RESAMPLES, -1), QUANTILE, axis=1), [0.025, 0.975])
    return Timing(p10, p50, p90, float(low), float(high), x.size, raw, reading, anchor.reference)
