"""The seam to CUDA: capture work once, replay it without launch costs, time it on the device itself.

Everything above it (chains, whole models, the timing protocol) only sees `Launcher`; on CPU tensors, in tests, the
work is simply called.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import torch

Work = Callable[[], object]
Replay = Callable[[], None]

WARM_UPS = 3
HOLD_CYCLES = 1_000_000
"""Clock cycles (about half a millisecond) the GPU spins before the first event, while the host queues the replay."""


class Launcher(Protocol):
    """How work gets onto a device and how long it takes there."""

    device: torch.device

    def capture(self, work: Work) -> Replay:
        """Run `work` a few times, record it, and return what replays it on the same tensors."""
        ...

    def seconds(self, run: Replay) -> float:
        """Seconds that `run` takes on the device; returns when it is done."""
        ...

    def wait(self) -> None:
        """Return when everything queued so far is done."""
        ...


class GraphLauncher:
    """CUDA graphs, timed by CUDA events."""

    def __init__(self, device: torch.device):
        self.device = device

    def capture(self, work: Work) -> Replay:
        """The warm-ups compile, autotune and create library handles, none of which a capture allows."""
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                work()
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                work()
        except Exception:
            _end_capture(self.device)
            raise

        def replay(kept: Work = work) -> None:  # a graph reads the tensors that `work` holds
            graph.replay()

        return replay

    def seconds(self, run: Replay) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        # without the spin, an idle GPU would pass the first event and then wait for the host to queue the graph
        torch.cuda._sleep(HOLD_CYCLES)
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def wait(self) -> None:
        torch.cuda.synchronize(self.device)


def _end_capture(device: torch.device) -> None:
    """A capture that failed leaves torch's own random numbers bound to its graph: every later draw would fail."""
    index = torch.cuda.current_device() if device.index is None else device.index
    torch.cuda.default_generators[index].graphsafe_set_state(torch.Generator(device).graphsafe_get_state())


class EagerLauncher:
    """Calls the work each time, timed by the wall clock: for CPU tensors."""

    def __init__(self, device: torch.device):
        self.device = device

    def capture(self, work: Work) -> Replay:
        def run() -> None:
            work()

        run()
        return run

    def seconds(self, run: Replay) -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    def wait(self) -> None:
        """Calls are done when they return."""


def launcher(device: torch.device | str) -> Launcher:
    """The launcher of a torch device."""
    device = torch.device(device)
    return GraphLauncher(device) if device.type == "cuda" else EagerLauncher(device)
