"""GPU timer: CUDA events around a replay, with the GPU's state read before and after.

A sample during which the driver held the clocks down (heat, power, hardware) is thrown away and taken again after a
pause; what was still held back after `RETAKES` attempts is kept and counted, and its cell is not reported as good.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from hwfit.kernels.cuda_graph import Launcher
from hwfit.profiler import energy
from hwfit.profiler.nvml import Nvml, State

if TYPE_CHECKING:
    from hwfit.kernels.backend import Backend
    from hwfit.kernels.cuda import CudaBackend

RETAKES = 5
PAUSE = 0.05
"""Seconds to cool down before a sample is taken again; doubled at each further attempt."""


@dataclass
class GpuConditions:
    """States around some samples: `retaken` were thrown away, `throttled` of the `kept` ones were held back."""

    kept: int = 0
    throttled: int = 0
    retaken: int = 0
    reasons: set[str] = field(default_factory=set)
    clocks: list[int] = field(default_factory=list)
    watts: list[float] = field(default_factory=list)
    hottest: int | None = None

    @property
    def held_back(self) -> float:
        return self.throttled / self.kept if self.kept else 0.0

    def see(self, state: State) -> None:
        if state.sm_clock is not None:
            self.clocks.append(state.sm_clock)
        if state.power is not None:
            self.watts.append(state.power)
        if state.temperature is not None:
            self.hottest = max(self.hottest or 0, state.temperature)
        self.reasons |= set(state.throttle)

    def __add__(self, other: GpuConditions) -> GpuConditions:
        return GpuConditions(
            kept=self.kept + other.kept,
            throttled=self.throttled + other.throttled,
            retaken=self.retaken + other.retaken,
            reasons=self.reasons | other.reasons,
            clocks=self.clocks + other.clocks,
            watts=self.watts + other.watts,
            hottest=max((t for t in (self.hottest, other.hottest) if t is not None), default=None),
        )

    def __str__(self) -> str:
        low, high = min(self.clocks, default=0), max(self.clocks, default=0)
        clocks = f"{low} MHz" if low == high else f"{low}-{high} MHz"
        parts = [f"sm {clocks}"] if self.clocks else []
        parts += [f"{self.hottest} C"] if self.hottest is not None else []
        parts += [f"{sum(self.watts) / len(self.watts):.0f} W"] if self.watts else []
        if self.retaken or self.throttled:
            why = ", ".join(sorted(self.reasons))
            parts.append(f"{self.retaken} throttled samples retaken, {self.throttled} kept ({why})")
        return ", ".join(parts)


class GpuTimer:
    """Times by `launcher` and watches the GPU through `nvml`."""

    shares_processor = False

    def __init__(self, launcher: Launcher, nvml: Nvml, sleep: Callable[[float], None] = time.sleep):
        self._launcher, self._nvml, self._sleep = launcher, nvml, sleep
        self._conditions = GpuConditions()

    @classmethod
    def of(cls, backend: Backend) -> GpuTimer:
        """The timer of the GPU that a `CudaBackend` runs on."""
        from hwfit.kernels.cuda_env import current_gpu

        gpu = current_gpu()
        return cls(cast("CudaBackend", backend).launcher, Nvml(gpu.index, gpu.uuid))

    def timed(self, run: Callable[[], None]) -> float:
        return self.checked(lambda: self._launcher.seconds(run))

    def checked(self, call: Callable[[], float]) -> float:
        seen, pause = self._conditions, PAUSE
        for attempt in range(RETAKES):
            before = self._nvml.state()
            seconds = call()
            after = self._nvml.state()
            seen.see(before)
            seen.see(after)
            held_back = bool(before.throttle or after.throttle)
            if not held_back or attempt + 1 == RETAKES:
                break
            seen.retaken += 1
            self._sleep(pause)
            pause *= 2
        seen.kept += 1
        seen.throttled += held_back
        return seconds

    def joules(self, run: Callable[[], None], seconds: float) -> float | None:
        return energy.joules(run, self._launcher.wait, self._nvml.energy, seconds)

    def conditions(self) -> GpuConditions:
        seen, self._conditions = self._conditions, GpuConditions()
        return seen
