"""Energy of one call from a counter that moves in steps of some 10 to 100 ms: count calls between two of its steps."""

from __future__ import annotations

import time
from collections.abc import Callable

BURST = 0.004
"""Seconds of calls queued between two looks at the counter."""
PATIENCE = 1.0
"""Seconds after which a counter that does not move is taken to be none."""


def joules(
    run: Callable[[], None],
    wait: Callable[[], None],
    counter: Callable[[], float | None],
    seconds: float,
    clock: Callable[[], float] = lambda: time.monotonic(),
) -> float | None:
    """Joules of one `run`, idle power included, from at least `seconds` of calls back to back.

    `run` queues a call, `wait` returns when it is done, `counter` is in joules. Counting starts and ends at a step
    of the counter, so its coarseness does not enter. None if there is no counter or it stands still.
    """
    if counter() is None:
        return None
    burst = _burst(run, wait, clock)
    if _calls_to_step(run, wait, counter, burst, clock) is None:
        return None
    first, start, calls = counter(), clock(), 0
    while clock() - start < seconds or not calls:
        more = _calls_to_step(run, wait, counter, burst, clock)
        if more is None:
            return None
        calls += more
    last = counter()
    if first is None or last is None:
        return None
    return (last - first) / calls


def _burst(run: Callable[[], None], wait: Callable[[], None], clock: Callable[[], float]) -> int:
    """How many calls take about `BURST` seconds."""
    wait()
    start = clock()
    run()
    wait()
    return max(1, int(BURST / max(clock() - start, 1e-9))) if clock() > start else 1


def _calls_to_step(
    run: Callable[[], None],
    wait: Callable[[], None],
    counter: Callable[[], float | None],
    burst: int,
    clock: Callable[[], float],
) -> int | None:
    """Call until the counter moves; how often, or None if it does not for `PATIENCE` seconds."""
    before, start, calls = counter(), clock(), 0
    while counter() == before:
        if clock() - start > PATIENCE:
            return None
        for _ in range(burst):
            run()
        wait()
        calls += burst
    return calls
