"""Backend: what runs on a device, why the rest does not, and chains of distinct copies of an op to be timed."""

from __future__ import annotations

from typing import Protocol

from hwfit.kernels.op import Op


class Chain(Protocol):
    """Distinct copies of one op in one graph, so that each pass reads all their weights from memory."""

    copies: int
    weight_bytes: int  # of all copies together: weights, or key/value cache of attention

    def run(self) -> None:
        """One pass over all copies. Divide its time by `copies`."""
        ...


class Backend(Protocol):
    """One way of running ops on one device."""

    name: str
    device: str  # cpu or cuda: whose timer, anchors and sizes of chains it shares

    def why_not(self, op: Op) -> str | None:
        """None if `op` runs here; else the reason in words, with what to use instead."""
        ...

    def kernel(self, op: Op) -> str:
        """The library op that runs it."""
        ...

    def copy_bytes(self, op: Op) -> int:
        """Bytes of weights (key/value cache of attention) that one copy in a chain reads."""
        ...

    def build(self, op: Op, copies: int, seed: int) -> Chain:
        """A chain ready to run. Raises `HwfitError` with `why_not` if the op does not run here."""
        ...

    def fingerprint(self) -> dict[str, str]:
        """Names and versions of the libraries that decide the timing."""
        ...
