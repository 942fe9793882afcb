"""Workload: what the model is asked to do, as prefill and decode phases that can be timed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PhaseName = Literal["prefill", "decode"]
PHASES: tuple[PhaseName, ...] = ("decode", "prefill")


@dataclass(frozen=True)
class Phase:
    """One forward call: `tokens` new tokens a sequence, attending to `context` tokens in all, `batch` sequences."""

    name: PhaseName
    tokens: int
    context: int
    batch: int = 1

    @property
    def m(self) -> int:
        """Rows of every linear's input: batch x tokens."""
        return self.batch * self.tokens


@dataclass(frozen=True)
class Workload:
    """A prompt of `prompt` tokens, then `generate` tokens one by one; decode is priced at `context` tokens."""

    batch: int = 1
    prompt: int = 128
    generate: int = 128
    context: int = 128

    @property
    def decode(self) -> Phase:
        return Phase("decode", 1, self.context, self.batch)

    @property
    def prefill(self) -> Phase:
        return Phase("prefill", self.prompt, self.prompt, self.batch)

    def phase(self, name: PhaseName) -> Phase:
        return self.decode if name == "decode" else self.prefill
