"""What the GPU benchmarks share: the device and its limits, times in turns, and the JSON line with its provenance."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.common import provenance
from hwfit.kernels.cuda import CudaBackend, CudaChain
from hwfit.kernels.cuda_graph import Work
from hwfit.profiler.clock import Timer, timer
from hwfit.profiler.device_kinds import fingerprint, get_backend
from hwfit.profiler.protocol import no_gc
from hwfit.profiler.stats import QUANTILE

COPY_BYTES = 2 << 30
SIDE = 8192
ROUNDS = 24


@dataclass(frozen=True)
class Limits:
    """Measured ceilings: bytes a second of a device-to-device copy (read and written, by the driver's copy or by a
    kernel, whichever is faster), bf16 operations a second."""

    copy: float
    peak: float

    def seconds(self, moved: float, operations: float) -> float:
        """The least time for so many bytes and operations."""
        return max(moved / self.copy, operations / self.peak)


def gpu() -> CudaBackend:
    """The GPU's backend. Raises `HwfitError` where there is none, with everything that is missing."""
    return cast(CudaBackend, get_backend("cuda"))


def times(chains: Mapping[str, CudaChain], watch: Timer, rounds: int = ROUNDS) -> dict[str, float]:
    """p10 seconds a call of every chain, taken in turns whose order rotates; throttled samples are taken again."""
    samples: dict[str, list[float]] = {name: [] for name in chains}
    names = list(chains)
    with no_gc():
        for chain in chains.values():
            chain.run()
        for i in range(rounds):
            turn = i % len(names)
            for name in names[turn:] + names[:turn]:
                samples[name].append(watch.timed(chains[name].run) / chains[name].copies)
    return {name: float(np.quantile(found, QUANTILE)) for name, found in samples.items()}


def limits(backend: CudaBackend, watch: Timer) -> Limits:
    """Both ceilings, on random data: zeros draw less power and multiply faster."""
    device = backend.kit.device
    source = torch.randn(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    a, b = (torch.randn(SIDE, SIDE, dtype=torch.bfloat16, device=device) for _ in range(2))
    found = times(
        {
            "driver": chain([partial(target.copy_, source)], 4, backend),
            "kernel": chain([partial(torch.neg, source, out=target)], 4, backend),
            "product": chain([partial(torch.mm, a, b)], 4, backend),
        },
        watch,
    )
    return Limits(2 * COPY_BYTES / min(found["driver"], found["kernel"]), 2 * SIDE**3 / found["product"])


def chain(steps: Sequence[Work], launches: int, backend: CudaBackend) -> CudaChain:
    """One CUDA graph of `launches` calls that take `steps` in turn."""
    with torch.no_grad():
        return CudaChain(list(steps), launches, 0, backend.launcher)


def watch(backend: CudaBackend) -> Timer:
    return timer(backend)


def publish(benchmark: str, figures: Mapping[str, float], as_json: bool, show: bool = True) -> None:
    """Print the figures as a table if `show`, and with `as_json` as the last line, with the GPU as the machine."""
    device = fingerprint("cuda")
    table = Table("figure", "value", title=f"{benchmark} on {device.name}")
    for name, value in figures.items():
        table.add_row(name, f"{value:.6g}")
    if show:
        Console().print(table)
    if as_json:
        facts = {key: str(value) for key, value in device.to_dict().items()}
        told = provenance() | gpu().fingerprint() | {"machine": device.name, "device": device.key, "gpu": facts}
        print(json.dumps({"benchmark": benchmark, "figures": dict(figures), "provenance": told}))


def run(main: Callable[[], None]) -> None:
    """A benchmark's entry point: a missing GPU is told in words, with exit code 2."""
    from hwfit import cli

    cli.main(main)
