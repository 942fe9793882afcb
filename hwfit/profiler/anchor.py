"""Anchors: fixed pieces of work timed in every round, so that a machine's drift can be told from a layer's cost.

The pace of a machine is the geometric mean over pieces of different kinds: products of floats and of integers, and
low-bit layers that stream from memory. One piece alone has noise of its own, some more than the drift (measured: plain
reading of memory moved by 1.24 and an integer kernel in cache by 1.18 while layers moved by 1.04, so correcting by
those doubled the spread of the layers; by the mean it fell by a third. `benchmarks.repeatability` prints how far they
moved). The reference is the pace of an ordinary moment (`Anchor.calibrate`): were it one of a fast moment, every time
would be corrected by much, and every correction adds an error.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean, median
from typing import TYPE_CHECKING, Literal

import numpy as np

from hwfit.kernels.op import Op, linear
from hwfit.lut_store.table import Table
from hwfit.profiler import clock
from hwfit.profiler.device import Fingerprint
from hwfit.profiler.sizing import cold_bytes

if TYPE_CHECKING:
    from hwfit.kernels.backend import Backend

Work = Literal["few", "many"]
"""Few rows at a time, bound by reading weights, or many."""
FEW = 8
CALIBRATION = 5.0
"""Seconds of an ordinary moment."""
WINDOW = 16
"""Samples that count as one reading when the reference is set: as many as a cell has at least."""

Piece = tuple[Op, int]
"""An op and its copies, timed in one pass."""
FLOAT, INTEGER = (linear(128, 576, 576, "w32"), 6), (linear(128, 576, 576, "w8a8"), 6)
FROM_MEMORY = ((linear(1, 1536, 576, "w4a8g32"), 90), (linear(1, 1536, 576, "w8a8g32"), 50))
GPU_STREAM, GPU_COMPUTE = (linear(1, 4096, 4096, "w16a16"), 128), (linear(2048, 4096, 4096, "w16a16"), 12)


@dataclass(frozen=True)
class Ops:
    """The pieces of a device by the work they stand for, and the layer that reads memory fastest.

    `stream_copies` of None: as many as overflow the cache.
    """

    pieces: Mapping[Work, tuple[Piece, ...]]
    stream: Op
    stream_copies: int | None = None


OPS = {
    "cpu": Ops(dict.fromkeys(("few", "many"), (FLOAT, INTEGER, *FROM_MEMORY)), linear(1, 1536, 576, "w32")),
    # about a millisecond each on an H200, 34 MB and 69 G multiply-adds a copy
    "cuda": Ops({"few": (GPU_STREAM,), "many": (GPU_COMPUTE,)}, *GPU_STREAM),
}


def work(m: int) -> Work:
    """What stands for ops of `m` rows."""
    return "few" if m <= FEW else "many"


@dataclass(frozen=True)
class Pace:
    """How fast a machine is at a moment. `mean` is what times are corrected by: the geometric mean of its pieces, in
    seconds a multiply-add. `stream` and `compute` are for the record: seconds a byte of memory, and seconds a
    multiply-add of the fastest piece."""

    mean: float
    stream: float
    compute: float


@dataclass(frozen=True)
class Sample:
    """Seconds a byte of memory, and seconds a multiply-add of each piece, from one pass of each."""

    stream: float
    pieces: Mapping[Piece, float]


class Anchor:
    """The anchors of one device, and its timer. A sample leaves nothing of other chains in the caches.

    `cache` is the size of the last cache before memory: L3 of a processor, L2 of a GPU. `reference` holds the paces
    that corrected times refer to; where there is none, `calibrate` sets it, else the first reading.
    """

    def __init__(self, backend: Backend, cache: int, reference: Mapping[Work, float] | None = None):
        self.reference: dict[Work, float] = dict(reference or {})
        self.timer = clock.timer(backend)
        self._ops = OPS[getattr(backend, "device", "cpu")]
        copies = self._ops.stream_copies or -(-cold_bytes(cache) // backend.copy_bytes(self._ops.stream))
        self._stream = (self._ops.stream, copies)
        self._bytes = copies * backend.copy_bytes(self._ops.stream)
        pieces = dict.fromkeys(piece for pieces in self._ops.pieces.values() for piece in pieces)
        self._chains = {piece: backend.build(*piece, seed=i) for i, piece in enumerate([*pieces, self._stream], 1)}
        self.sample()

    @classmethod
    def of_table(cls, backend: Backend, device: Fingerprint, table: Table) -> Anchor:
        """An anchor that corrects to what the rows of `device` in `table` are corrected to."""
        first: dict[Work, float] = {}
        for m, reference in table.references(device.key):
            first.setdefault(work(m), reference)
        return cls(backend, device.cache, first)

    def sample(self) -> Sample:
        """The paces now, from one pass of each."""
        seconds = {piece: self.timer.timed(chain.run) for piece, chain in self._chains.items()}
        paces = {(op, copies): s / (copies * op.m * op.n * op.k) for (op, copies), s in seconds.items()}
        return Sample(seconds[self._stream] / self._bytes, paces)

    def pace(self, samples: Sequence[Sample], work: Work) -> Pace:
        """The pace of some rounds: the p10 of each piece over them."""
        low = [_p10([s.pieces[piece] for s in samples]) for piece in self._ops.pieces[work]]
        return Pace(geometric_mean(low), _p10([s.stream for s in samples]), min(low))

    def calibrate(self, seconds: float = CALIBRATION) -> None:
        """Set every reference that is missing to the median pace of some `seconds`, on a core that has warmed up."""
        if self.reference.keys() >= self._ops.pieces.keys():
            return
        end = time.monotonic() + seconds
        samples: list[Sample] = []
        while time.monotonic() < end or len(samples) < WINDOW:
            samples.append(self.sample())
        windows = [samples[i : i + WINDOW] for i in range(0, len(samples) - WINDOW + 1, WINDOW)]
        for work in self._ops.pieces:
            self.reference.setdefault(work, median(self.pace(window, work).mean for window in windows))

    def correction(self, samples: Sequence[Sample], work: Work) -> Correction:
        """What moves a time taken during `samples` to the reference, which they become if there is none yet."""
        pace = self.pace(samples, work)
        return Correction(pace, self.reference.setdefault(work, pace.mean))


@dataclass(frozen=True)
class Correction:
    """Seconds at `pace` times `factor` are seconds at the `reference` pace."""

    pace: Pace
    reference: float

    @property
    def factor(self) -> float:
        return self.reference / self.pace.mean


def _p10(values: Sequence[float]) -> float:
    return float(np.quantile(values, 0.1))
