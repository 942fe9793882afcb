"""Clock: processor time of the measuring thread, so that other processes on a shared machine do not count.

A chain runs on the calling thread alone. On a quiet machine its processor time is the wall time; where other processes
take turns on the same core, wall times of more than a few milliseconds all contain their time slices (measured with
five busy processes on two cores: the wall p10 of one 9 ms pass was 13 ms, its processor time repeated to 1-2 %).
What neighbours do to caches and memory bandwidth is still in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

FINEST = 1e-6

now: Callable[[], float] = time.perf_counter
"""Seconds; only differences mean anything. The wall clock where processor time is too coarse (Windows)."""

if time.get_clock_info("thread_time").resolution <= FINEST:
    now = time.thread_time
