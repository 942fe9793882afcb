"""A GPU that is not there: a `pynvml` module whose answers tests choose, and a launcher on a simulated clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from fake_backend import Clock, FakeBackend

from hwfit.kernels.cuda import CudaBackend
from hwfit.kernels.cuda_env import Gpu
from hwfit.kernels.cuda_graph import EagerLauncher
from hwfit.kernels.cuda_kit import DenseKit
from hwfit.kernels.op import linear
from hwfit.profiler import anchor as anchor_module
from hwfit.profiler import clock as clock_module
from hwfit.profiler import device as device_module
from hwfit.profiler import device_kinds
from hwfit.profiler import protocol as protocol_module
from hwfit.profiler.anchor import Ops, Work
from hwfit.profiler.gpu_timer import GpuTimer
from hwfit.profiler.nvml import Nvml
from hwfit.profiler.protocol import Rules

H200 = Gpu(0, "NVIDIA H200", 90, 132, 60 << 20, 150_000_000_000, "1234")
SMALL = replace(H200, l2=1 << 16)


class NVMLError(Exception):
    """What an unsupported query raises."""


@dataclass
class FakePynvml:
    """Answers of `nvidia-ml-py`; calls named in `silent` raise, those in `absent` do not exist."""

    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_GPU = 0
    NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = 1
    NVMLError = NVMLError

    reasons: Callable[[], int] = lambda: 0
    millijoules: Callable[[], int] = lambda: 0
    processes: list[Any] = field(default_factory=list)
    mig: tuple[int, int] = (0, 0)
    ecc: tuple[int, int] = (1, 1)
    persistence: int = 1
    temperature: int = 40
    utilisation: int = 0
    free: int = 140_000_000_000
    power_limit: int = 700_000
    set_clock: int = 1980
    silent: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    asked: list[str] = field(default_factory=list)

    def __getattr__(self, call: str) -> Any:
        if not call.startswith("nvml") or call in self.absent:
            raise AttributeError(call)

        def answer(*arguments: Any) -> Any:
            self.asked.append(call)
            if call in self.silent:
                raise NVMLError("Not Supported")
            return self._answers[call](*arguments)

        return answer

    @property
    def _answers(self) -> dict[str, Callable[..., Any]]:
        return {
            "nvmlInit": lambda: None,
            "nvmlDeviceGetHandleByIndex": lambda index: f"handle {index}",
            "nvmlDeviceGetHandleByUUID": lambda uuid: f"handle {uuid}",
            "nvmlDeviceGetCurrentClocksEventReasons": lambda h: self.reasons(),
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda h: self.reasons(),
            "nvmlDeviceGetClockInfo": lambda h, kind: {1: 1980, 2: 3201}[kind],
            "nvmlDeviceGetMaxClockInfo": lambda h, kind: {1: 1980, 2: 3201}[kind],
            "nvmlDeviceGetApplicationsClock": lambda h, kind: self.set_clock,
            "nvmlDeviceGetTemperature": lambda h, sensor: self.temperature,
            "nvmlDeviceGetTemperatureThreshold": lambda h, kind: 90,
            "nvmlDeviceGetPowerUsage": lambda h: 412_345,
            "nvmlDeviceGetPowerManagementLimit": lambda h: self.power_limit,
            "nvmlDeviceGetPowerManagementDefaultLimit": lambda h: 700_000,
            "nvmlDeviceGetTotalEnergyConsumption": lambda h: self.millijoules(),
            "nvmlDeviceGetName": lambda h: b"NVIDIA H200",
            "nvmlSystemGetDriverVersion": lambda: "580.82",
            "nvmlSystemGetCudaDriverVersion": lambda: 13000,
            "nvmlDeviceGetEccMode": lambda h: self.ecc,
            "nvmlDeviceGetMigMode": lambda h: self.mig,
            "nvmlDeviceGetPersistenceMode": lambda h: self.persistence,
            "nvmlDeviceGetMemoryInfo": lambda h: SimpleNamespace(total=150_000_000_000, free=self.free),
            "nvmlDeviceGetUtilizationRates": lambda h: SimpleNamespace(gpu=self.utilisation),
            "nvmlDeviceGetComputeRunningProcesses": lambda h: self.processes,
        }


def process(pid: int, memory: int | None = 5_000_000_000) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=memory)


@dataclass
class FakeLauncher:
    """Runs at once and tells the simulated clock's time."""

    clock: Clock
    device: torch.device = torch.device("cpu")
    waits: int = 0

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        return lambda: (work(), None)[1]

    def seconds(self, run: Callable[[], None]) -> float:
        start = self.clock.now
        run()
        return self.clock.now - start

    def wait(self) -> None:
        self.waits += 1


class FakeGpuBackend(FakeBackend):
    """A `FakeBackend` registered as a GPU."""

    device = "cuda"
    launcher: FakeLauncher

    @classmethod
    def on(cls, clock: Clock) -> FakeGpuBackend:
        backend = cls(clock.work, memory=lambda: clock.memory)
        backend.launcher = FakeLauncher(clock)
        return backend


@contextmanager
def become_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePynvml]:
    """This machine has a GPU: its facts are an H200's with a small cache, its kernels dense ones on the CPU."""
    module, cpu = FakePynvml(), torch.device("cpu")
    monkeypatch.setattr(device_module, "current_gpu", lambda: SMALL)
    monkeypatch.setattr(device_module, "Nvml", lambda index, uuid: Nvml(index, uuid, module))
    backend = CudaBackend(DenseKit(cpu), EagerLauncher(cpu), SMALL.l2, lambda: 1 << 34)
    kind = replace(device_kinds.DEVICES["cuda"], backend=lambda: backend)
    monkeypatch.setitem(device_kinds.DEVICES, "cuda", kind)
    timer = GpuTimer(backend.launcher, Nvml(module=module), lambda seconds: None)
    monkeypatch.setitem(clock_module._TIMERS, "cuda", lambda backend: timer)
    small = (linear(32, 64, 64, "w16a16"), 4)
    ops = Ops(dict.fromkeys(get_args(Work), (small,)), linear(1, 256, 256, "w16a16"), 8)
    monkeypatch.setitem(anchor_module.OPS, "cuda", ops)
    rules = Rules(seconds=0.02, min_rounds=3, max_rounds=5, max_copies=4, drift=1e9)
    monkeypatch.setitem(protocol_module.RULES, "cuda", rules)
    monkeypatch.setattr("hwfit.kernels.cuda_env.free_memory", lambda: 1 << 34)
    yield module
