"""The timing protocol: chains of distinct copies, interleaved round by round with an anchor.

Repeating one layer reads it from cache and is wrong by 2.7x for decode; flushing before each run overcharges by 1.5x.
A chain of distinct copies of the layer in one graph streams its weights as a model does; its time divided by the
copies is the layer's. Several chains are alive at once and take turns, so that drift hits all of them alike, and the
anchor in each round both measures the drift and empties the caches.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from hwfit.kernels.op import Op
from hwfit.precision import Precision
from hwfit.profiler.anchor import Anchor, anchor_kind, cold_bytes
from hwfit.profiler.stats import Summary, summarise

if TYPE_CHECKING:
    from hwfit.kernels.registry import Backend, Chain


@dataclass(frozen=True)
class Rules:
    """How long to try. `seconds` is the average a cell may cost, building its chain included."""

    seconds: float = 0.6
    batch: int = 8
    batch_bytes: int = 1_500_000_000
    max_copies: int = 400
    min_rounds: int = 6
    max_rounds: int = 48
    narrow: float = 0.01
    unstable: float = 0.10


@dataclass(frozen=True)
class Reading:
    """The outcome for one op: seconds a call, corrected to the anchor's reference."""

    op: Op
    summary: Summary
    anchor: float
    anchor_reference: float
    anchor_kind: str
    copies: int
    weight_bytes: int
    note: str


def weight_bytes(op: Op) -> int:
    """Packed weight bytes that one call of `op` reads; 0 for an op without weights."""
    return Precision.parse(op.precision).weight_bytes(op.n, op.k) if op.kind == "linear" else 0


def copies(op: Op, l3: int, rules: Rules) -> int:
    """How many distinct copies make a chain: enough to overflow the caches when streaming, a short one otherwise."""
    streaming = anchor_kind(op) == "stream"
    if op.kind != "linear":
        return 48 if streaming else 6
    if not streaming:
        return min(12, max(2, math.ceil(2e9 / (2 * op.m * op.n * op.k))))
    return min(rules.max_copies, math.ceil(cold_bytes(l3) / weight_bytes(op)))


def batches(ops: Sequence[Op], l3: int, rules: Rules) -> Iterator[list[Op]]:
    """Split into groups that share an anchor and fit in memory together, keeping the order within each anchor."""
    open_: dict[str, list[Op]] = {}
    size: dict[str, int] = {}
    for op in ops:
        kind, cost = anchor_kind(op), copies(op, l3, rules) * weight_bytes(op)
        group = open_.get(kind, [])
        if group and (len(group) == rules.batch or size[kind] + cost > rules.batch_bytes):
            yield group
            group, size[kind] = [], 0
        open_[kind] = [*group, op]
        size[kind] = size.get(kind, 0) + cost
    yield from (group for group in open_.values() if group)


def measure(ops: Sequence[Op], backend: Backend, anchor: Anchor, l3: int, rules: Rules) -> list[Reading]:
    """Time one batch of ops of the same anchor. A cell leaves the rounds once its interval is narrow; all stop when
    the batch's time is up or after `max_rounds`. Kernels are warmed up by one untimed pass each."""
    deadline = perf_counter() + rules.seconds * len(ops)
    chains = {op: backend.build(op, copies(op, l3, rules), seed=i) for i, op in enumerate(ops)}
    for chain in chains.values():
        chain.run()
    times, anchors = _rounds(chains, anchor, deadline, rules)
    reading = anchor.settle(anchors)
    assert anchor.reference is not None
    scale = anchor.reference / reading
    out = []
    for op, chain in chains.items():
        summary = summarise(times[op], scale / chain.copies)
        why = "interval narrow" if summary.spread <= rules.narrow else "time or rounds spent"
        fields = (anchor.reference, anchor.kind, chain.copies, weight_bytes(op), why)
        out.append(Reading(op, summary, reading, *fields))
    return out


def _rounds(
    chains: dict[Op, Chain], anchor: Anchor, deadline: float, rules: Rules
) -> tuple[dict[Op, list[float]], list[float]]:
    """Seconds of every pass of every chain, and of the anchor, in rounds whose order rotates."""
    times: dict[Op, list[float]] = {op: [] for op in chains}
    anchors: list[float] = []
    live = list(chains)
    with no_gc():
        for i in range(rules.max_rounds):
            anchors.append(anchor.sample())
            turn = i % len(live)
            for op in live[turn:] + live[:turn]:
                start = perf_counter()
                chains[op].run()
                times[op].append(perf_counter() - start)
            if i + 1 < rules.min_rounds:
                continue
            if perf_counter() > deadline:
                break
            if i % 4 == 3:
                live = [op for op in live if summarise(times[op]).spread > rules.narrow]
                if not live:
                    break
    return times, anchors


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
