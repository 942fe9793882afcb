"""Guard: takes a distillation that diverges back to its last sound state, with half the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hwfit.search.snapshot import Snapshot
from hwfit.search.watch import FLOOR, LEAST, RISE, Watch

GOES_BACK = 3
"""Times at most; the learning rate is then an eighth."""
SOONEST, LATEST = 8, 25
"""Steps from one snapshot to the next: a tenth of all, within these."""


@dataclass
class Guard:
    """A snapshot of the state with the lowest loss on fixed held-out rows so far, and when to go back to it.

    `held_out` tells that loss now. It has no noise of text in it, so that states compare by it; the training loss is
    watched at every step (see `Watch`). `back` counts how often the run went back, `step` is the snapshot's.
    """

    snapshot: Snapshot
    held_out: Callable[[], float]
    steps: int
    most: int = GOES_BACK
    back: int = 0
    step: int = 0
    loss: float = math.inf

    _watch: Watch = field(default_factory=Watch)

    def __post_init__(self) -> None:
        if self.steps < LEAST:
            self.most = 0  # too few to tell anything

    @property
    def rate(self) -> float:
        """What learning rates are multiplied by."""
        return 0.5**self.back

    def start(self, fresh: bool) -> None:
        """Keep the state before the first step; `fresh` unless a checkpoint is restored next."""
        if self.most:
            self.snapshot.take()
            self.loss = self.held_out() if fresh else math.inf

    def resume(self, losses: Sequence[float], tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
        """After the state of a checkpoint is restored: its losses and tensors, and its `meta` of the guard.

        A checkpoint without one is of a time before guards: its state is taken for sound.
        """
        if not self.most:
            return
        self._watch = Watch(losses)
        self.back, self.step = told.get("back", 0), told.get("step", len(losses))
        if self.step == len(losses):
            self.snapshot.take()
        elif self.step:
            self.snapshot.read(tensors)
        self.loss = told["loss"] if "loss" in told else self.held_out()

    def look(self, done: int) -> None:
        """After `done` steps: keep the state if it is time, and it is the best so far."""
        if self.most and done % min(LATEST, max(SOONEST, self.steps // 10)) == 0 and done < self.steps:
            loss = self.held_out()
            if loss < self.loss:
                self.snapshot.take()
                self.step, self.loss = done, loss

    def diverged(self, loss: float, norm: float) -> bool:
        """Whether this step says to go back, and going back is still open; always so for what is no number."""
        if self.back >= self.most:
            return False
        return not (math.isfinite(loss) and math.isfinite(norm)) or self._watch.risen(loss)

    def go_back(self, losses: list[float]) -> list[float]:
        """Restore the snapshot; the losses up to it."""
        self.snapshot.back()
        self.back += 1
        kept = losses[: self.step]
        self._watch = Watch(kept)
        return kept

    def told(self, step: int, loss: float) -> str:
        """What happened at `step`, in words, once the run has gone back."""
        what = "left" if math.isfinite(loss) else "is no number"
        return (
            f"the loss {what} at step {step} ({loss:.3g}); back to step {self.step} (held-out loss {self.loss:.3g}) "
            f"with {self.rate:g} of the learning rate, {self.back} of at most {self.most} times"
        )

    def finish(self) -> bool:
        """Keep the better of the last state and the snapshot, by held-out loss; whether that was the snapshot.

        A run that never went back keeps its last state unless that is clearly worse (`RISE`).
        """
        if not self.most:
            return False
        margin = 1.0 if self.back else RISE
        if self.held_out() <= max(FLOOR, margin * self.loss):
            return False
        self.snapshot.back()
        return True

    def kept(self) -> str:
        """What `finish` did, in words, where it kept the snapshot."""
        return (
            f"the state after step {self.step} is kept, whose held-out loss of {self.loss:.3g} the last did not reach"
        )

    def meta(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the snapshot's tensors."""
        return {"back": self.back, "step": self.step, "loss": self.loss}

    def tensors(self, done: int) -> Iterable[tuple[str, Tensor]]:
        """The snapshot's, unless it is the state after `done` steps itself, or that before the first."""
        return () if not self.most or self.step in (0, done) else self.snapshot.tensors()
