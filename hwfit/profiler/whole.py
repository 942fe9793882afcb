"""Whole-model timing: models take turns round by round with the anchors, so that their ratios survive drift."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hwfit.profiler import clock
from hwfit.profiler.anchor import Anchor, Correction, work
from hwfit.profiler.anchor import Sample as PaceSample
from hwfit.profiler.clock import Timer
from hwfit.profiler.protocol import no_gc
from hwfit.profiler.stats import QUANTILE, RESAMPLES
from hwfit.progress import track
from hwfit.subnet import Subnet
from hwfit.workload import PHASES, PhaseName, Workload

DECODE_BURST = 4
"""Consecutive decode steps a round; the first is not counted, it finds the caches full of another model."""
MIN_ROUNDS = 5

Sample = tuple[float, float]  # seconds as the model tells them, and those of them that are its own


class TimedModel(Protocol):
    """What `deploy.runtime.OnnxModel` and `deploy.cuda_model.CudaModel` offer: seconds of one forward call with inputs
    bound beforehand, by the wall clock or the GPU's own."""

    subnet: Subnet

    def time_prefill(self, tokens: int, batch: int = 1) -> float: ...

    def time_decode(self, context: int, batch: int = 1) -> float: ...


@dataclass(frozen=True)
class Timing:
    """Seconds of one forward call on the processor or GPU, corrected to the anchor's reference pace.

    `low`…`high` is the 95 % bootstrap interval of `p10` over whole rounds. `raw` is the p10 of the wall clock (of the
    GPU's own) as it was: on a quiet machine the two differ by its drift only.
    """

    p10: float
    p50: float
    p90: float
    low: float
    high: float
    samples: int
    raw: float
    correction: Correction


def time_models(
    models: Mapping[str, TimedModel],
    workload: Workload,
    seconds_per_model: float,
    anchor: Anchor,
    progress: bool = True,
) -> dict[str, dict[PhaseName, Timing]]:
    """Time decode and prefill of every model for about `seconds_per_model` each, at least `MIN_ROUNDS` rounds."""
    names = list(models)
    samples: dict[str, dict[PhaseName, list[list[Sample]]]] = {n: {p: [] for p in PHASES} for n in names}
    paces: list[PaceSample] = []
    for model in models.values():
        _round(model, workload, anchor.timer)
    limit = seconds_per_model * len(names)
    start, spent, i = time.monotonic(), 0.0, 0
    with no_gc(), track(round(limit), "measure", progress) as advance:
        while names and (i < MIN_ROUNDS or spent < limit):
            paces.append(anchor.sample())
            turn = i % len(names)
            for name in names[turn:] + names[:turn]:
                for phase, times in _round(models[name], workload, anchor.timer).items():
                    samples[name][phase].append(times)
            i, before, spent = i + 1, spent, time.monotonic() - start
            advance(spent - before, note=f"round {i}")
    if not names:
        return {}
    return {
        n: {p: _timing(samples[n][p], anchor.correction(paces, work(workload.phase(p).m))) for p in PHASES}
        for n in names
    }


def _round(model: TimedModel, workload: Workload, timer: Timer) -> dict[PhaseName, list[Sample]]:
    """The samples of one round of one model."""

    def sample(call: Callable[[], float]) -> Sample:
        if timer.shares_processor:
            return _both_clocks(call)
        seconds = timer.checked(call)
        return seconds, seconds

    prefill = sample(lambda: model.time_prefill(workload.prompt, workload.batch))
    decode = [sample(lambda: model.time_decode(workload.context, workload.batch)) for _ in range(DECODE_BURST)]
    return {"decode": decode[1:], "prefill": [prefill]}


def _both_clocks(call) -> Sample:
    """`(wall seconds that the call returns, those of them on the processor)`."""
    wall, own = time.perf_counter(), clock.now()
    seconds = call()
    own, wall = clock.now() - own, time.perf_counter() - wall
    return seconds, seconds * min(1.0, own / wall)


def _timing(rounds: list[list[Sample]], correction: Correction) -> Timing:
    wall, x = np.moveaxis(np.asarray(rounds), 2, 0)  # [rounds, samples a round] each
    x = x * correction.factor
    p10, p50, p90 = (float(q) for q in np.quantile(x, [QUANTILE, 0.5, 0.9]))
    draws = np.random.default_rng(0).integers(0, len(x), (RESAMPLES, len(x)))
    low, high = np.quantile(np.quantile(x[draws].reshape(RESAMPLES, -1), QUANTILE, axis=1), [0.025, 0.975])
    raw = float(np.quantile(wall, QUANTILE))
    return Timing(p10, p50, p90, float(low), float(high), x.size, raw, correction)
