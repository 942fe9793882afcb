"""Anchor: a fixed piece of work timed in every round, so that a machine's drift can be told from a layer's cost."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import numpy as np

from hwfit.kernels.op import Op, linear
from hwfit.lut_store.table import Table
from hwfit.profiler.device import Fingerprint

if TYPE_CHECKING:
    from hwfit.kernels.registry import Backend, Chain

AnchorKind = Literal["stream", "compute"]
KINDS: tuple[AnchorKind, ...] = ("stream", "compute")

STREAM = linear(1, 1536, 576, "w32")
COMPUTE = linear(128, 576, 576, "w32")
COLD_ROWS = 16
"""Up to this many rows a linear is bound by reading its weights."""


def cold_bytes(l3: int) -> int:
    """Bytes to read before nothing of what was read earlier is left in a cache: 2 x L3, at least 100 MB."""
    return max(100_000_000, 2 * l3)


def anchor_kind(op: Op) -> AnchorKind:
    """What the speed of `op` follows: DRAM bandwidth when it has few rows, arithmetic when it has many."""
    return "stream" if op.m <= COLD_ROWS else "compute"


class Anchor:
    """`stream`: fp32 matrix-vector products over distinct weights that overflow the L3 (as a side effect a sample
    leaves nothing of other chains in the caches). `compute`: fp32 matrix products of 128 rows.

    `reference` is the reading that corrected times refer to; None until the first reading becomes it.
    """

    def __init__(self, backend: Backend, kind: AnchorKind, l3: int, reference: float | None = None):
        op = STREAM if kind == "stream" else COMPUTE
        copies = -(-cold_bytes(l3) // (op.n * op.k * 4)) if kind == "stream" else 6
        self.kind: AnchorKind = kind
        self.reference = reference
        self._chain: Chain = backend.build(op, copies, seed=20_260)
        self._chain.run()

    def sample(self) -> float:
        """Seconds of one pass, now."""
        start = perf_counter()
        self._chain.run()
        return perf_counter() - start

    def settle(self, samples: list[float]) -> float:
        """Turn the samples of one batch into its reading (their p10); the very first one becomes the reference."""
        reading = float(np.quantile(samples, 0.1))
        if self.reference is None:
            self.reference = reading
        return reading


class Anchors:
    """The anchors of one device, built when first needed and kept, with the references its table already has."""

    def __init__(self, backend: Backend, l3: int, references: Mapping[AnchorKind, float | None] | None = None):
        self._backend, self._l3, self._references = backend, l3, references or {}
        self._built: dict[AnchorKind, Anchor] = {}

    @classmethod
    def of_table(cls, backend: Backend, device: Fingerprint, table: Table) -> Anchors:
        """Anchors that correct to what the rows of `device` in `table` are corrected to."""
        return cls(backend, device.l3, {kind: table.anchor_reference(device.key, kind) for kind in KINDS})

    def __getitem__(self, kind: AnchorKind) -> Anchor:
        if kind not in self._built:
            self._built[kind] = Anchor(self._backend, kind, self._l3, self._references.get(kind))
        return self._built[kind]
