"""Workload: what the model is asked to do, as prefill and decode phases that can be timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hwfit.errors import raise_all

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

    @property
    def options(self) -> list[str]:
        """What a command line says of it: only what differs from the defaults."""
        plain, names = Workload(), ("batch", "prompt", "context")
        changed = {name: value for name in names if (value := getattr(self, name)) != getattr(plain, name)}
        return [word for name, value in changed.items() for word in (f"--{name}", str(value))]

    def __str__(self) -> str:
        return f"batch {self.batch}, prompt {self.prompt}, context {self.context}"


def workload_of(batch: int, prompt: int, context: int) -> Workload:
    """Raises as `workloads_of`."""
    return workloads_of([batch], [prompt], context)[0]


def workloads_of(batch: Sequence[int], prompt: Sequence[int], context: int) -> list[Workload]:
    """Every batch with every prompt length. Raises `HwfitError` listing what is below 1."""
    named = [*(("batch", b) for b in batch), *(("prompt", p) for p in prompt), ("context", context)]
    raise_all([f"--{name} {value} must be at least 1" for name, value in named if value < 1])
    return [Workload(b, p, context=context) for b in batch for p in prompt]
