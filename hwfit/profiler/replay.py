"""Replay: a device that answers from a stored table, on a clock of its own, so that what decides which cells to measure
can be tried without the hardware. Rows made with it are kept under `replay-…` and never pose as measured ones."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from hwfit import __version__
from hwfit.errors import HwfitError
from hwfit.kernels.op import Op
from hwfit.lut_store.facts import Facts, facts_of
from hwfit.lut_store.schema import op_of
from hwfit.lut_store.table import Table
from hwfit.precision import Precision
from hwfit.profiler.anchor import OPS, Ops
from hwfit.profiler.clock import Unwatched
from hwfit.profiler.device import Fingerprint


@dataclass
class ReplayClock(Unwatched):
    """A timer whose seconds pass only when a chain of a replay runs."""

    seconds: float = 0.0
    shares_processor = False

    def now(self) -> float:
        return self.seconds


@dataclass(frozen=True)
class ReplayChain:
    """A pass takes the stored seconds of an op times `copies`."""

    copies: int
    weight_bytes: int
    seconds: float
    clock: ReplayClock

    def run(self) -> None:
        self.clock.seconds += self.seconds * self.copies


@dataclass(frozen=True)
class ReplayFingerprint(Fingerprint):
    """The replayed device, with what its data sheet or its anchors say."""

    facts: Facts


class Replay:
    """A backend that takes from each op what `source` took in `table`, and refuses what is not there.

    Raises `HwfitError` if the table has no `source`, or not the anchors of any kind of device.
    """

    name = "replay"

    def __init__(self, table: Table, source: str):
        self.source, self.clock = source, ReplayClock()
        rows = table.read(source).to_dict("records")
        self._seconds = {op_of(row): float(row["p10"]) for row in rows if row["p10"] > 0}
        lacking = {device: _anchors(ops) - self._seconds.keys() for device, ops in OPS.items()}
        found = [device for device, missing in lacking.items() if not missing]
        if not found:
            raise HwfitError(
                f"table {table.path}: '{source}' cannot be replayed, it lacks the anchors "
                + " or ".join(", ".join(map(str, sorted(missing))) for missing in lacking.values())
            )
        self.device = found[0]
        facts = facts_of(table, source)
        self.identity = ReplayFingerprint(
            key=f"replay-{source}",
            name=f"replay of {source}",
            model="replay",
            cores=facts.multiprocessors,
            l2=facts.l2,
            l3=facts.l2,
            memory=facts.memory,
            isa=(),
            governor=None,
            virtual=True,
            system=platform.system(),
            onnxruntime="",
            facts=facts,
        )

    def why_not(self, op: Op) -> str | None:
        return None if op in self._seconds else f"the replayed table has no such cell of '{self.source}'"

    def kernel(self, op: Op) -> str:
        return "replay"

    def copy_bytes(self, op: Op) -> int:
        """At least one: only how many copies make a chain depends on it, and the clock is told the time."""
        return max(1, Precision.parse(op.precision).weight_bytes(op.n, op.k))

    def build(self, op: Op, copies: int, seed: int) -> ReplayChain:
        if reason := self.why_not(op):
            raise HwfitError(f"{op}: {reason}")
        return ReplayChain(copies, copies * self.copy_bytes(op), self._seconds[op], self.clock)

    def timer(self) -> ReplayClock:
        return self.clock

    def fingerprint(self) -> dict[str, str]:
        return {"replay": __version__}


def _anchors(ops: Ops) -> set[Op]:
    return {ops.stream} | {op for pieces in ops.pieces.values() for op, _ in pieces}
