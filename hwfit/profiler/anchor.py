"""Anchors: two fixed pieces of work timed in every round, so that a machine's drift can be told from a layer's cost.

`stream` reads distinct weights from DRAM, `compute` multiplies matrices that stay in cache. Their paces now and in the
reference correct every time. A time t with `bytes` to read is taken as a smooth roofline, t^2 = compute^2 + memory^2
with memory = bytes x pace, and each part is moved to the reference by its own anchor. (Measured over 14 repetitions on
a busy machine, spread of decode ops: 2.1 % as the clock saw it, 2.9 % when divided by the stream anchor alone, 1.6 %
by this rule; prefill 3.0 % and 2.2 %.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hwfit.kernels.op import Op, linear
from hwfit.lut_store.table import Table
from hwfit.profiler import clock
from hwfit.profiler.device import Fingerprint
from hwfit.profiler.sizing import cold_bytes

if TYPE_CHECKING:
    from hwfit.kernels.registry import Backend

STREAM = linear(1, 1536, 576, "w32")
COMPUTE = linear(128, 576, 576, "w32")
COMPUTE_COPIES = 6


@dataclass(frozen=True)
class Ops:
    """The two pieces of work of a device. `copies` of None: as many as overflow the cache."""

    stream: Op
    compute: Op
    stream_copies: int | None
    compute_copies: int


OPS = {
    "cpu": Ops(STREAM, COMPUTE, None, COMPUTE_COPIES),
    # about a millisecond each on an H200, 34 MB and 69 G multiply-adds a copy
    "cuda": Ops(linear(1, 4096, 4096, "w16a16"), linear(2048, 4096, 4096, "w16a16"), 128, 12),
}


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


class Anchor:
    """Both anchors of one device, and its timer. A sample leaves nothing of other chains in the caches.

    `cache` is the size of the last cache before memory: L3 of a processor, L2 of a GPU. `reference` is the pace that
    corrected times refer to; None until the first reading becomes it.
    """

    def __init__(self, backend: Backend, cache: int, reference: Pace | None = None):
        self.reference = reference
        self.timer = clock.timer(backend)
        ops = OPS[getattr(backend, "device", "cpu")]
        stream = ops.stream_copies or -(-cold_bytes(cache) // backend.copy_bytes(ops.stream))
        self._compute = backend.build(ops.compute, ops.compute_copies, seed=1)
        self._stream = backend.build(ops.stream, stream, seed=2)
        self._bytes = stream * backend.copy_bytes(ops.stream)
        self._multiplies = ops.compute_copies * ops.compute.m * ops.compute.n * ops.compute.k
        self.sample()

    @classmethod
    def of_table(cls, backend: Backend, device: Fingerprint, table: Table) -> Anchor:
        """An anchor that corrects to what the rows of `device` in `table` are corrected to."""
        reference = table.reference(device.key)
        return cls(backend, device.cache, Pace(*reference) if reference else None)

    def sample(self) -> Pace:
        """The pace now, from one pass of each."""
        compute, stream = self.timer.timed(self._compute.run), self.timer.timed(self._stream.run)
        return Pace(stream / self._bytes, compute / self._multiplies)

    def settle(self, samples: list[Pace]) -> tuple[Pace, Pace]:
        """`(pace, reference)` of some rounds: the p10 of their samples. The very first one becomes the reference."""
        stream, compute = np.quantile([(s.stream, s.compute) for s in samples], 0.1, axis=0)
        pace = Pace(float(stream), float(compute))
        self.reference = self.reference or pace
        return pace, self.reference
