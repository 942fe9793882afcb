"""The timing protocol: chains of distinct copies, interleaved round by round with the anchors.

Repeating one layer reads it from cache and is wrong by 2.7x for decode; flushing before each run overcharges by 1.5x.
A chain of distinct copies of the layer in one graph streams its weights as a model does; its time divided by the
copies is the layer's. Several chains are alive at once and take turns, so that drift hits all of them alike, and the
anchors in each round both measure the drift and empty the caches. Because they do, a chain of half the bytes that
overflow the caches is cold already (measured, decode: 100, 48 and 24 MB chains agree within 2 %, 12 MB is 2-5 % dear).
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwfit.kernels.op import Op
from hwfit.profiler.anchor import Anchor, Pace, cold_bytes, timed
from hwfit.profiler.stats import Summary, summarise

if TYPE_CHECKING:
    from hwfit.kernels.registry import Backend, Chain

COLD_ROWS = 16
"""Up to this many rows a linear is bound by reading its weights, and its chain must be a long one."""


@dataclass(frozen=True)
class Rules:
    """How long to try. `seconds` is the average a cell may cost, building its chain included.

    A cell is done when the 95 % interval of its p10 is within ± `narrow`, and `UNSTABLE` if it ends above `unstable`.
    """

    seconds: float = 0.6
    batch: int = 8
    batch_bytes: int = 1_500_000_000
    max_copies: int = 400
    min_rounds: int = 16
    max_rounds: int = 48
    narrow: float = 0.01
    unstable: float = 0.10


@dataclass(frozen=True)
class Reading:
    """The outcome for one op: seconds a call corrected to the reference pace, and `raw` p10 as the clock saw it."""

    op: Op
    summary: Summary
    raw: float
    pace: Pace
    reference: Pace
    copies: int
    narrow: bool


def copies(op: Op, backend: Backend, l3: int, rules: Rules) -> int:
    """How many distinct copies make a chain: half of what overflows the caches with few rows, a short one otherwise."""
    if op.kind != "linear":
        return 48 if op.m <= COLD_ROWS else 6
    if op.m <= COLD_ROWS:
        return min(rules.max_copies, math.ceil(cold_bytes(l3) / 2 / backend.copy_bytes(op)))
    return min(12, max(2, math.ceil(2e9 / (2 * op.m * op.n * op.k))))


def batches(ops: Sequence[Op], backend: Backend, l3: int, rules: Rules) -> Iterator[list[Op]]:
    """Split into consecutive groups that fit in memory together."""
    group: list[Op] = []
    size = 0
    for op in ops:
        cost = copies(op, backend, l3, rules) * backend.copy_bytes(op)
        if group and (len(group) == rules.batch or size + cost > rules.batch_bytes):
            yield group
            group, size = [], 0
        group.append(op)
        size += cost
    if group:
        yield group


def measure(ops: Sequence[Op], backend: Backend, anchor: Anchor, l3: int, rules: Rules) -> list[Reading]:
    """Time one batch of ops. A cell leaves the rounds once its interval is narrow; all stop when the batch's time is
    up or after `max_rounds`. Kernels are warmed up by one untimed pass each."""
    deadline = time.monotonic() + rules.seconds * len(ops)
    chains = {op: backend.build(op, copies(op, backend, l3, rules), seed=i) for i, op in enumerate(ops)}
    for chain in chains.values():
        chain.run()
    times, paces = _rounds(chains, anchor, deadline, rules)
    readings = []
    for op, chain in chains.items():
        pace, reference = anchor.settle(paces[: len(times[op])])  # of the rounds that the cell took part in
        raw = summarise(times[op], 1 / chain.copies)
        scale = pace.correct(raw.p10, backend.copy_bytes(op), reference) / raw.p10
        summary = summarise(times[op], scale / chain.copies)
        narrow = summary.spread <= rules.narrow
        readings.append(Reading(op, summary, raw.p10, pace, reference, chain.copies, narrow))
    return readings


def _rounds(
    chains: dict[Op, Chain], anchor: Anchor, deadline: float, rules: Rules
) -> tuple[dict[Op, list[float]], list[Pace]]:
    """Seconds of every pass of every chain, and the paces, in rounds whose order rotates."""
    times: dict[Op, list[float]] = {op: [] for op in chains}
    paces: list[Pace] = []
    live = list(chains)
    with no_gc():
        for i in range(rules.max_rounds):
            paces.append(anchor.sample())
            turn = i % len(live)
            for op in live[turn:] + live[:turn]:
                times[op].append(timed(chains[op].run))
            if i + 1 < rules.min_rounds:
                continue
            if time.monotonic() > deadline:
                break
            if i % 4 == 3:
                live = [op for op in live if summarise(times[op]).spread > rules.narrow]
                if not live:
                    break
    return times, paces


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
