"""Clock: processor time of the measuring thread, so that other processes on a shared machine do not count.

A chain runs on the calling thread alone. On a quiet machine its processor time is the wall time; where other processes
take turns on the same core, wall times of more than a few milliseconds all contain their time slices (measured with
five busy processes on two cores: the wall p10 of one 9 ms pass was 13 ms, its processor time repeated to 1-2 %).
What neighbours do to caches and memory bandwidth is still in it.

A GPU keeps its own time: `profiler.gpu_timer`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from hwfit.kernels.backend import Backend

FINEST = 1e-6

now: Callable[[], float] = time.perf_counter
"""Seconds; only differences mean anything. The wall clock where processor time is too coarse (Windows)."""

if time.get_clock_info("thread_time").resolution <= FINEST:
    now = time.thread_time


class Timer(Protocol):
    """How a device's time is told. `timed` is for what runs when it is called, `checked` for what times itself."""

    shares_processor: bool
    """Whether others' processes stretch what `checked` calls, so that both clocks must be read."""

    def timed(self, run: Callable[[], None]) -> float:
        """Seconds of one call."""
        ...

    def checked(self, call: Callable[[], float]) -> float:
        """The seconds that `call` returns; called again if the device was held back meanwhile."""
        ...

    def joules(self, run: Callable[[], None], seconds: float) -> float | None:
        """Joules of one call, from about `seconds` of calls; None where the device has no counter."""
        ...

    def conditions(self) -> Conditions:
        """What the device was like since the last time this was asked."""
        ...


class Conditions(Protocol):
    """How a device ran during some samples. `held_back` is the share of kept samples that were throttled."""

    @property
    def held_back(self) -> float: ...

    def __add__(self, other: Any) -> Conditions: ...

    def __str__(self) -> str: ...


class Unknown:
    """Conditions of a device that nobody watches."""

    held_back = 0.0

    def __add__(self, other: Any) -> Conditions:
        return self

    def __str__(self) -> str:
        return ""


UNKNOWN = Unknown()


class Unwatched(ABC):
    """A timer that reads a clock; nobody says how the device ran, or what it drew."""

    @abstractmethod
    def now(self) -> float:
        """Seconds; only differences mean anything."""

    def timed(self, run: Callable[[], None]) -> float:
        start = self.now()
        run()
        return self.now() - start

    def checked(self, call: Callable[[], float]) -> float:
        return call()

    def joules(self, run: Callable[[], None], seconds: float) -> float | None:
        return None

    def conditions(self) -> Conditions:
        return UNKNOWN


class ProcessorTimer(Unwatched):
    """The calling thread's processor time."""

    shares_processor = True

    def now(self) -> float:
        return now()


def _processor(backend: Backend) -> Timer:
    return ProcessorTimer()


def _gpu(backend: Backend) -> Timer:
    from hwfit.profiler.gpu_timer import GpuTimer

    return GpuTimer.of(backend)


_TIMERS: dict[str, Callable[[Backend], Timer]] = {"cpu": _processor, "cuda": _gpu}


def timer(backend: Backend) -> Timer:
    """The timer of a backend's device, or the one that the backend brings."""
    own: Callable[[], Timer] | None = getattr(backend, "timer", None)
    return own() if own else _TIMERS[getattr(backend, "device", "cpu")](backend)
