"""Train step: forward, backward and update of one batch; on a GPU recorded once and replayed without launch costs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from hwfit.search.teacher import Targets

Step = Callable[[Targets], Tensor]
"""Updates the parameters in place and returns what was seen before the update, a tensor on the device."""
EAGER_STEPS = 3
"""Steps run as they are before one is recorded: they create what a recording may not (moments, library handles)."""


def training_stream(device: torch.device) -> AbstractContextManager[object]:
    """What every step has to run under: a graph can only be recorded off the default stream, and autograd keeps to
    the stream of a parameter's first use."""
    if device.type != "cuda":
        return nullcontext()
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    return torch.cuda.stream(side)


class Stepper:
    """Calls `step`; if `recorded`, on a GPU, from the fourth call on replays it (batches must keep their shape)."""

    def __init__(self, step: Step, device: torch.device, recorded: bool):
        self.step, self.device, self.recorded, self.calls = step, device, recorded, 0
        self.rows: Targets | None = None  # what the recorded step reads
        self.seen = torch.empty(0)
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, rows: Targets) -> Tensor:
        self.calls += 1
        if not self.recorded or self.calls <= EAGER_STEPS:
            return self.step(rows)
        if self.graph is None or self.rows is None:
            self.rows = Targets(rows.ids.clone(), rows.index.clone(), rows.logprob.clone())
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream(self.device)):
                self.seen = self.step(self.rows)
            self.graph = graph  # recording does not run it
        else:
            for to, source in zip(_tensors(self.rows), _tensors(rows), strict=True):
                to.copy_(source)
        self.graph.replay()
        return self.seen


def _tensors(rows: Targets) -> tuple[Tensor, ...]:
    return rows.ids, rows.index, rows.logprob
