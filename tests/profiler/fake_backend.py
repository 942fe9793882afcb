"""A backend whose ops take a known time on a clock that tests own, and a machine whose speed they choose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hwfit.kernels.op import Op
from hwfit.precision import Precision
from hwfit.space import Space
from hwfit.subnet import ModelShape


def true_seconds(op: Op) -> float:
    """The known cost of one call: bytes over a bandwidth, or operations over a rate, plus a dispatch."""
    p = Precision.parse(op.precision)
    if op.kind == "linear":
        return 1e-6 + p.weight_bytes(op.n, op.k) / 20e9 + 2 * op.m * op.n * op.k / 400e9
    return 1e-6 + op.m * max(op.n, 1) * op.k * 1e-12


@dataclass
class Clock:
    """Simulated seconds. `slowdown(now)` is how many times slower than nominal the machine is at that moment."""

    now: float = 0.0
    slowdown: Callable[[float], float] = lambda now: 1.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds * self.slowdown(self.now)


@dataclass
class FakeChain:
    op: Op
    copies: int
    work: Callable[[float], None]
    runs: int = 0

    @property
    def weight_bytes(self) -> int:
        return 0

    def run(self) -> None:
        self.runs += 1
        self.work(self.copies * true_seconds(self.op))


@dataclass
class FakeBackend:
    """`kernels.registry.Backend` over `work(seconds)`: a simulated clock's, or `time.sleep`."""

    work: Callable[[float], None]
    cannot: tuple[str, ...] = ()
    name: str = "fake"
    built: list[FakeChain] = field(default_factory=list)

    def why_not(self, op: Op) -> str | None:
        return f"this device has no {op.precision}" if op.precision in self.cannot else None

    def kernel(self, op: Op) -> str:
        return f"Fake{op.kind.title()}"

    def build(self, op: Op, copies: int, seed: int) -> FakeChain:
        self.built.append(FakeChain(op, copies, self.work))
        return self.built[-1]

    def fingerprint(self) -> dict[str, str]:
        return {"fake": "1.0"}


def tiny_space() -> Space:
    """12 distinct linears and a few other ops."""
    shape = ModelShape(hidden=128, heads=4, kv_heads=2, head_size=32, mlp=256, blocks=2, vocab=512)
    return Space.default(shape, precisions=("w32", "w8a8"))
