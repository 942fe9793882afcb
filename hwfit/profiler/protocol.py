"""The timing protocol: chains of distinct copies, interleaved round by round with the anchors.

Repeating one layer reads it from cache and is wrong by 2.7x for decode; flushing before each run overcharges by 1.5x.
A chain of distinct copies of the layer in one graph streams its weights as a model does; its time divided by the
copies is the layer's. Several chains are alive at once and take turns, so that drift hits all of them alike, and the
anchors in each round both measure the drift and empty the caches. Because they do, a chain of half the bytes that
overflow the caches is cold already (measured, decode: 100, 48 and 24 MB chains agree within 2 %, 12 MB is 2-5 % dear).
"""

from __future__ import annotations

import gc
import operator
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from hwfit.kernels.op import Op
from hwfit.profiler.anchor import CALIBRATION, Anchor, Correction, Sample, work
from hwfit.profiler.sizing import builds, chain_bytes, copies
from hwfit.profiler.stats import Summary, summarise

if TYPE_CHECKING:
    from hwfit.kernels.backend import Backend, Chain
    from hwfit.profiler.clock import Conditions

__all__ = ["Reading", "Rules", "batches", "copies", "default_rules", "measure", "no_gc"]


@dataclass(frozen=True)
class Rules:
    """How long to try. `seconds` is the average a cell may cost, building its chain included.

    A cell is done when the 95 % interval of its p10 is within ± `narrow`, and `UNSTABLE` if it ends above `unstable`.
    `energy` of the seconds go to the device's energy counter, where it has one; at most `throttled` of a cell's samples
    may have been held back, and the correction for drift may move its value by a factor of `drift`.
    """

    seconds: float = 0.6
    batch: int = 8
    batch_bytes: int = 1_500_000_000
    max_copies: int = 400
    min_rounds: int = 24
    max_rounds: int = 96
    narrow: float = 0.01
    unstable: float = 0.10
    energy: float = 0.0
    throttled: float = 0.10
    drift: float = 1.2

    @property
    def calibration(self) -> float:
        """Seconds to find the reference pace of a new table."""
        return min(CALIBRATION, 8 * self.seconds)


RULES = {
    "cpu": Rules(),
    "cuda": Rules(seconds=1.0, batch_bytes=8_000_000_000, max_copies=512, unstable=0.05, energy=0.3),
}


def default_rules(device: str) -> Rules:
    """What is tried on a device unless told otherwise."""
    return RULES.get(device, Rules())


@dataclass(frozen=True)
class Reading:
    """The outcome for one op: seconds a call corrected to the reference pace, and `raw` p10 as the clock saw it.

    `joules` a call are as the counter gave them; `conditions` say how the device ran, `held_back` for which share of
    the samples it was throttled.
    """

    op: Op
    summary: Summary
    raw: float
    correction: Correction
    copies: int
    narrow: bool
    joules: float | None = None
    conditions: str = ""
    held_back: float = 0.0

    @property
    def drift(self) -> float:
        """The factor between the value and what the clock said, 1 or more."""
        return max(self.raw / self.summary.p10, self.summary.p10 / self.raw)


def batches(ops: Sequence[Op], backend: Backend, cache: int, rules: Rules) -> Iterator[list[Op]]:
    """Split into consecutive groups that fit in memory together."""
    group: list[Op] = []
    size = 0
    for op in ops:
        cost = chain_bytes(op, backend, cache, rules)
        if group and (len(group) == rules.batch or size + cost > rules.batch_bytes):
            yield group
            group, size = [], 0
        group.append(op)
        size += cost
    if group:
        yield group


def measure(ops: Sequence[Op], backend: Backend, anchor: Anchor, cache: int, rules: Rules) -> list[Reading]:
    """Time one batch of ops. A cell leaves the rounds once its interval is narrow; all stop when the batch's time is
    up or after `max_rounds`. Kernels are warmed up by one untimed pass each."""
    counting = min(rules.energy, 0.3 * rules.seconds)
    deadline = time.monotonic() + (rules.seconds - counting) * len(ops)
    chains = {op: _chains(op, i, backend, cache, rules) for i, op in enumerate(ops)}
    times, paces, seen = _rounds(chains, anchor, deadline, rules)
    readings = []
    for op, built in chains.items():
        chain = built[0]
        mine = paces[: len(times[op])]  # of the rounds that the cell took part in
        correction = anchor.correction(mine, work(op.m))
        summary = summarise(times[op], correction.factor / chain.copies, len(built))
        joules = anchor.timer.joules(chain.run, counting) if counting else None
        conditions = reduce(operator.add, seen[op])
        readings.append(
            Reading(
                op=op,
                summary=summary,
                raw=summary.p10 / correction.factor,
                correction=correction,
                copies=chain.copies,
                narrow=summary.spread <= rules.narrow,
                joules=None if joules is None else joules / chain.copies,
                conditions=str(conditions),
                held_back=conditions.held_back,
            )
        )
    return readings


def _chains(op: Op, seed: int, backend: Backend, cache: int, rules: Rules) -> list[Chain]:
    """The chains of an op, warmed up."""
    count = copies(op, backend, cache, rules)
    built = [backend.build(op, count, seed=seed) for _ in range(builds(op, backend))]
    for chain in built:
        chain.run()
    return built


def _rounds(
    chains: dict[Op, list[Chain]], anchor: Anchor, deadline: float, rules: Rules
) -> tuple[dict[Op, list[float]], list[Sample], dict[Op, list[Conditions]]]:
    """Seconds of a pass of each op in each round, the paces, and the device's conditions. The order of ops rotates, and
    the chains of one op take turns."""
    timer = anchor.timer
    times: dict[Op, list[float]] = {op: [] for op in chains}
    seen: dict[Op, list[Conditions]] = {op: [] for op in chains}
    paces: list[Sample] = []
    live = list(chains)
    with no_gc():
        for i in range(rules.max_rounds):
            paces.append(anchor.sample())
            timer.conditions()  # the anchor's own
            turn = i % len(live)
            for op in live[turn:] + live[:turn]:
                times[op].append(timer.timed(chains[op][i % len(chains[op])].run))
                seen[op].append(timer.conditions())
            if i + 1 < rules.min_rounds:
                continue
            if time.monotonic() > deadline:
                break
            if i % 4 == 3:
                live = [op for op in live if summarise(times[op], builds=len(chains[op])).spread > rules.narrow]
                if not live:
                    break
    return times, paces, seen


@contextmanager
def no_gc() -> Iterator[None]:
    """Collect now, then keep the collector off while timing."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
