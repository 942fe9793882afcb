"""Anchors: fixed pieces of work timed in every round, so that a machine's drift can be told from a layer's cost.

`stream` reads distinct weights from DRAM; the others compute on what stays in cache. Their paces now and in the
reference correct every time. A time t with `bytes` to read is taken as a smooth roofline, t^2 = compute^2 + memory^2
with memory = bytes x pace, and each part is moved to the reference by its own anchor.

Arithmetic is not one thing: what slows a core down for minutes on a shared machine slows 4- and 8-bit kernels at one
row far more than fp32 products (`benchmarks.repeatability` prints by how much the paces moved), so each kind of `Work`
has an anchor of its own. A busy program on the machine's other core is not it: `benchmarks.shared_core`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from hwfit.kernels.op import Op, linear
from hwfit.lut_store.table import Table
from hwfit.precision import Precision
from hwfit.profiler import clock
from hwfit.profiler.device import Fingerprint
from hwfit.profiler.sizing import cold_bytes

if TYPE_CHECKING:
    from hwfit.kernels.registry import Backend

Work = Literal["float", "integer", "vector"]
"""What limits an op beside memory: products of floats, products of integers, or few rows at a time."""
FEW = 8

STREAM = linear(1, 1536, 576, "w32")
COMPUTE: dict[Work, tuple[Op, int]] = {
    "float": (linear(128, 576, 576, "w32"), 6),
    "integer": (linear(128, 576, 576, "w8a8"), 6),
    "vector": (linear(1, 384, 192, "w8a8g32"), 48),
}
GPU_COMPUTE = (linear(2048, 4096, 4096, "w16a16"), 12)


@dataclass(frozen=True)
class Ops:
    """The anchors of a device, with their copies. `stream_copies` of None: as many as overflow the cache."""

    stream: Op
    stream_copies: int | None
    compute: Mapping[Work, tuple[Op, int]]


OPS = {
    "cpu": Ops(STREAM, None, COMPUTE),
    # about a millisecond each on an H200, 34 MB and 69 G multiply-adds a copy
    "cuda": Ops(linear(1, 4096, 4096, "w16a16"), 128, dict.fromkeys(get_args(Work), GPU_COMPUTE)),
}


def work(m: int, floats: bool) -> Work:
    """What products of `m` rows, of floats or integers, are limited by."""
    return "vector" if m <= FEW else "float" if floats else "integer"


def work_of(op: Op) -> Work:
    return work(op.m, op.kind == "linear" and Precision.parse(op.precision).is_float)


@dataclass(frozen=True)
class Pace:
    """How fast the machine is at a moment: seconds a byte read from DRAM, seconds a multiply-add."""

    stream: float
    compute: float

    def correct(self, seconds: float, weight_bytes: int, reference: Pace) -> float:
        """`seconds` of work that reads `weight_bytes`, done at this pace, as it would be at the reference's."""
        memory = min(seconds, weight_bytes * self.stream)
        compute = math.sqrt(seconds**2 - memory**2)
        return math.hypot(compute * reference.compute / self.compute, memory * reference.stream / self.stream)


@dataclass(frozen=True)
class Sample:
    """Seconds a byte and, for each kind of work, seconds a multiply-add, from one pass of each anchor."""

    stream: float
    compute: Mapping[Work, float]

    def pace(self, work: Work) -> Pace:
        return Pace(self.stream, self.compute[work])


class Anchor:
    """The anchors of one device, and its timer. A sample leaves nothing of other chains in the caches.

    `cache` is the size of the last cache before memory: L3 of a processor, L2 of a GPU. `reference` holds the paces
    that corrected times refer to, by kind of work; where there is none, the first reading becomes it.
    """

    def __init__(self, backend: Backend, cache: int, reference: Mapping[Work, Pace] | None = None):
        self.reference: dict[Work, Pace] = dict(reference or {})
        self.timer = clock.timer(backend)
        ops = OPS[getattr(backend, "device", "cpu")]
        stream = ops.stream_copies or -(-cold_bytes(cache) // backend.copy_bytes(ops.stream))
        self._works = ops.compute
        self._compute = {pair: backend.build(*pair, seed=1) for pair in dict.fromkeys(ops.compute.values())}
        self._stream = backend.build(ops.stream, stream, seed=2)
        self._bytes = stream * backend.copy_bytes(ops.stream)
        self.sample()

    @classmethod
    def of_table(cls, backend: Backend, device: Fingerprint, table: Table) -> Anchor:
        """An anchor that corrects to what the rows of `device` in `table` are corrected to."""
        first: dict[Work, Pace] = {}
        for op, stream, compute in table.references(device.key):
            first.setdefault(work_of(op), Pace(stream, compute))
        return cls(backend, device.cache, first)

    def sample(self) -> Sample:
        """The paces now, from one pass of each."""
        seconds = {
            (op, copies): self.timer.timed(chain.run) / (copies * op.m * op.n * op.k)
            for (op, copies), chain in self._compute.items()
        }
        stream = self.timer.timed(self._stream.run) / self._bytes
        return Sample(stream, {kind: seconds[pair] for kind, pair in self._works.items()})

    def settle(self, samples: Sequence[Sample], work: Work) -> tuple[Pace, Pace]:
        """`(pace, reference)` of some rounds for a kind of work: the p10 of their samples.

        The very first samples become the reference of every kind that has none.
        """
        paces: dict[Work, Pace] = {w: _p10([s.pace(w) for s in samples]) for w in self._works}
        for kind, pace in paces.items():
            self.reference.setdefault(kind, pace)
        return paces[work], self.reference[work]


def _p10(paces: Sequence[Pace]) -> Pace:
    stream, compute = np.quantile([(p.stream, p.compute) for p in paces], 0.1, axis=0)
    return Pace(float(stream), float(compute))
