"""NVML: one GPU's clocks, temperature, power, throttle reasons, energy counter and mode, as plain data.

`pynvml` is imported only when a `Nvml` is opened; every query a GPU or a virtual machine does not answer is None.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from hwfit.errors import HwfitError
from hwfit.kernels.cuda_env import EXTRA, first_line

THROTTLING = {
    "power cap": 0x4,
    "hardware slowdown": 0x8,
    "temperature": 0x20,
    "hardware temperature": 0x40,
    "power brake": 0x80,
}
"""NVML's clock event reasons (`nvmlClocksEventReason…`) that make a sample too slow. Idle and a set clock do not."""
ANY_MEMORY = 64_000_000
"""Bytes above which another process counts: less is a context that does nothing."""


@dataclass(frozen=True)
class State:
    """A moment of the GPU: MHz, degrees Celsius, watts, and why its clocks are held down (empty: they are not)."""

    sm_clock: int | None
    memory_clock: int | None
    temperature: int | None
    power: float | None
    throttle: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """What stays the same while measuring. MHz, watts, degrees, bytes; None where the device does not say."""

    name: str
    driver: str | None
    cuda: str | None
    max_sm_clock: int | None
    max_memory_clock: int | None
    set_sm_clock: int | None
    power_limit: float | None
    default_power_limit: float | None
    slow_down_at: int | None
    ecc: bool | None
    mig: bool | None
    persistence: bool | None
    memory_total: int | None
    memory_free: int | None


@dataclass(frozen=True)
class Process:
    """Another process that computes on the GPU; `memory` in bytes, None where it is not told."""

    pid: int
    memory: int | None


class Nvml:
    """One GPU through NVML. Raises `HwfitError` if `nvidia-ml-py` is missing or the driver does not answer.

    `uuid` is torch's (`GPU-` may be missing); without one, `index` counts as NVML counts. `module` stands in for
    `pynvml` in tests.
    """

    def __init__(self, index: int = 0, uuid: str | None = None, module: Any = None):
        self._nvml = module or _pynvml()
        try:
            self._nvml.nvmlInit()
            self._handle = self._find(index, uuid)
        except self._nvml.NVMLError as error:
            raise HwfitError(
                f"--device cuda: the NVIDIA driver does not answer NVML ({first_line(error)}); "
                "see whether nvidia-smi runs"
            ) from error

    def state(self) -> State:
        """Read around every sample: five short queries."""
        n, h = self._nvml, self._handle
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons", h)
        if reasons is None:  # the name before driver 535
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", h)
        power = self._ask("nvmlDeviceGetPowerUsage", h)
        return State(
            sm_clock=self._ask("nvmlDeviceGetClockInfo", h, n.NVML_CLOCK_SM),
            memory_clock=self._ask("nvmlDeviceGetClockInfo", h, n.NVML_CLOCK_MEM),
            temperature=self._ask("nvmlDeviceGetTemperature", h, n.NVML_TEMPERATURE_GPU),
            power=None if power is None else power / 1e3,
            throttle=tuple(name for name, bit in THROTTLING.items() if (reasons or 0) & bit),
        )

    def energy(self) -> float | None:
        """Joules since the driver was loaded; None on GPUs before Volta. It moves in steps of some 10 to 100 ms."""
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption", self._handle)
        return None if millijoules is None else millijoules / 1e3

    def facts(self) -> Facts:
        n, h = self._nvml, self._handle
        cuda = self._ask("nvmlSystemGetCudaDriverVersion")
        memory = self._ask("nvmlDeviceGetMemoryInfo", h)
        ecc, mig = self._ask("nvmlDeviceGetEccMode", h), self._ask("nvmlDeviceGetMigMode", h)
        persistence = self._ask("nvmlDeviceGetPersistenceMode", h)
        watts = {key: self._ask(call, h) for key, call in _LIMITS.items()}
        return Facts(
            name=_text(self._ask("nvmlDeviceGetName", h)) or "unknown",
            driver=_text(self._ask("nvmlSystemGetDriverVersion")),
            cuda=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
            max_sm_clock=self._ask("nvmlDeviceGetMaxClockInfo", h, n.NVML_CLOCK_SM),
            max_memory_clock=self._ask("nvmlDeviceGetMaxClockInfo", h, n.NVML_CLOCK_MEM),
            set_sm_clock=self._ask("nvmlDeviceGetApplicationsClock", h, n.NVML_CLOCK_SM),
            power_limit=_kilo(watts["now"]),
            default_power_limit=_kilo(watts["default"]),
            slow_down_at=self._ask("nvmlDeviceGetTemperatureThreshold", h, n.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
            ecc=None if ecc is None else bool(ecc[0]),
            mig=None if mig is None else bool(mig[0]),
            persistence=None if persistence is None else bool(persistence),
            memory_total=None if memory is None else int(memory.total),
            memory_free=None if memory is None else int(memory.free),
        )

    def others(self) -> list[Process]:
        """Processes but this one that compute on the GPU and hold memory there."""
        found = self._ask("nvmlDeviceGetComputeRunningProcesses", self._handle) or []
        return [
            Process(int(p.pid), None if p.usedGpuMemory is None else int(p.usedGpuMemory))
            for p in found
            if p.pid != os.getpid() and (p.usedGpuMemory is None or p.usedGpuMemory > ANY_MEMORY)
        ]

    def utilisation(self) -> int | None:
        """Per cent of the last moments in which some kernel ran, whoever's."""
        rates = self._ask("nvmlDeviceGetUtilizationRates", self._handle)
        return None if rates is None else int(rates.gpu)

    def _ask(self, call: str, *arguments: Any) -> Any:
        """The answer of an NVML function, None where this library, driver or device has none."""
        function: Callable[..., Any] | None = getattr(self._nvml, call, None)
        if function is None:
            return None
        try:
            return function(*arguments)
        except self._nvml.NVMLError:
            return None

    def _find(self, index: int, uuid: str | None) -> Any:
        if uuid:
            full = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
            try:
                return self._nvml.nvmlDeviceGetHandleByUUID(full)
            except self._nvml.NVMLError:  # torch's number may be a partition's
                pass
        return self._nvml.nvmlDeviceGetHandleByIndex(index)


_LIMITS = {"now": "nvmlDeviceGetPowerManagementLimit", "default": "nvmlDeviceGetPowerManagementDefaultLimit"}


def _pynvml() -> ModuleType:
    try:
        import pynvml  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise HwfitError(f"--device cuda: nvidia-ml-py is not installed; {EXTRA}") from error
    return pynvml


def _text(value: str | bytes | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else value


def _kilo(value: int | None) -> float | None:
    return None if value is None else value / 1e3
