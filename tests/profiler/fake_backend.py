"""A backend whose ops take a known time on a clock that tests own, and a machine whose speed they choose."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

from hwfit.kernels.op import Op
from hwfit.precision import Precision
from hwfit.profiler.anchor import FLOAT, INTEGER
from hwfit.space import Space
from hwfit.subnet import ModelShape


def copy_bytes(op: Op) -> int:
    return Precision.parse(op.precision).weight_bytes(op.n, op.k) if op.kind == "linear" else 0


def true_seconds(op: Op, slow_memory: float = 1.0, slow_compute: float = 1.0) -> float:
    """The known cost of one call on a machine of 20 GB/s and 100 G multiply-adds/s: a smooth roofline."""
    multiplies = op.m * max(op.n, 1) * op.k
    return math.hypot(copy_bytes(op) / 20e9 * slow_memory, (1e-6 + multiplies / 100e9) * slow_compute)


@dataclass
class Clock:
    """Simulated seconds. The machine is `slowdown(now)` times slower in all it does, `memory` in reading alone."""

    now: float = 0.0
    slowdown: Callable[[float], float] = lambda now: 1.0
    memory: float = 1.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds * self.slowdown(self.now)

    @property
    def time(self) -> SimpleNamespace:
        """Stands in for the module `time`."""
        return SimpleNamespace(monotonic=self, perf_counter=self)


@dataclass
class FakeChain:
    op: Op
    copies: int
    work: Callable[[float], None]
    memory: Callable[[], float] = lambda: 1.0
    runs: int = 0

    @property
    def weight_bytes(self) -> int:
        return 0

    def run(self) -> None:
        self.runs += 1
        cached = (self.op, self.copies) in (FLOAT, INTEGER)
        memory = 0.0 if cached else self.memory()
        self.work(self.copies * true_seconds(self.op, memory))


@dataclass
class FakeBackend:
    """`kernels.backend.Backend` over `work(seconds)`: a simulated clock's, or `time.sleep`."""

    work: Callable[[float], None]
    cannot: tuple[str, ...] = ()
    name: str = "fake"
    built: list[FakeChain] = field(default_factory=list)
    memory: Callable[[], float] = lambda: 1.0

    @classmethod
    def on(cls, clock: Clock) -> FakeBackend:
        return cls(clock.work, memory=lambda: clock.memory)

    def why_not(self, op: Op) -> str | None:
        return f"this device has no {op.precision}" if op.precision in self.cannot else None

    def kernel(self, op: Op) -> str:
        return f"Fake{op.kind.title()}"

    def copy_bytes(self, op: Op) -> int:
        return copy_bytes(op)

    def build(self, op: Op, copies: int, seed: int) -> FakeChain:
        self.built.append(FakeChain(op, copies, self.work, self.memory))
        return self.built[-1]

    def fingerprint(self) -> dict[str, str]:
        return {"fake": "1.0"}


def tiny_space() -> Space:
    """A few dozen distinct ops; only the middle MLP width is not coarse."""
    shape = ModelShape(hidden=128, heads=4, kv_heads=2, head_size=32, mlp=512, blocks=2, vocab=512)
    return replace(Space.default(shape, precisions=("w32", "w8a8")), heads=(4,), head_size=(32,))
