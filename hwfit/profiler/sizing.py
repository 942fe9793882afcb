"""Sizing: how many copies of an op make a chain that reads past the cache and lasts long enough to be timed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from hwfit.kernels.op import FEW_ROWS, Op

if TYPE_CHECKING:
    from hwfit.kernels.backend import Backend
    from hwfit.profiler.protocol import Rules

BUILDS = {"cpu": 4, "cuda": 1}

GPU_PASS = 1e-3
"""Seconds that a GPU's chain should last at least: an event's few microseconds are below 1 % of it then."""
GPU_KERNEL, GPU_BYTES, GPU_MULTIPLIES = 2e-6, 8e12, 1e15
"""Seconds of the shortest kernel, bytes and multiply-adds a second: better than any GPU of 2026, so passes are long."""


def cold_bytes(cache: int) -> int:
    """Bytes to read before nothing of what was read earlier is left in a cache: twice its size, at least 100 MB."""
    return max(100_000_000, 2 * cache)


def copies(op: Op, backend: Backend, cache: int, rules: Rules) -> int:
    """How many copies make a chain on the backend's device; `cache` is the last one before memory, in bytes."""
    return _COPIES[_device(backend)](op, backend, cache, rules)


def builds(op: Op, backend: Backend) -> int:
    """How many chains of an op take turns. What takes a microsecond on a processor costs 5-12 % more or less with where
    a chain's buffers happen to lie (measured; linears: 1 %), so several are built and averaged."""
    return 1 if op.kind == "linear" else BUILDS[_device(backend)]


def chain_bytes(op: Op, backend: Backend, cache: int, rules: Rules) -> int:
    """Bytes of memory that the chains keep; a GPU's rotates through fewer distinct copies than it launches."""
    count = copies(op, backend, cache, rules)
    resident: Callable[[Op, int], int] | None = getattr(backend, "resident_bytes", None)
    return builds(op, backend) * (resident(op, count) if resident else count * backend.copy_bytes(op))


def _cpu(op: Op, backend: Backend, cache: int, rules: Rules) -> int:
    """Half of what overflows the caches with few rows, a short chain otherwise."""
    if op.kind != "linear":
        return 6 if op.m > FEW_ROWS else 48 if op.kind == "attention" else 192  # norms take a microsecond each
    if op.m <= FEW_ROWS:
        return min(rules.max_copies, math.ceil(cold_bytes(cache) / 2 / backend.copy_bytes(op)))
    return min(12, max(2, math.ceil(2e9 / (2 * op.m * op.n * op.k))))


def _gpu(op: Op, backend: Backend, cache: int, rules: Rules) -> int:
    """As many as last `GPU_PASS` at the least possible time each."""
    multiplies = {"linear": op.m * op.n * op.k, "attention": op.m * op.context * op.n * op.head_size}.get(op.kind, 0)
    traffic = backend.copy_bytes(op) + _activation_bytes(op)
    least = max(GPU_KERNEL, traffic / GPU_BYTES, multiplies / GPU_MULTIPLIES)
    return max(2, min(rules.max_copies, math.ceil(GPU_PASS / least)))


def _activation_bytes(op: Op) -> int:
    """16-bit inputs and outputs."""
    match op.kind:
        case "linear":
            return 2 * op.m * (op.n + op.k)
        case "attention":
            return 4 * op.m * (op.n + op.k) * op.head_size
        case "norm":
            return 8 * op.m * op.k
        case "swiglu":
            return 6 * op.m * op.k
    return 2 * op.m * op.k


_COPIES: dict[str, Callable[[Op, Backend, int, Rules], int]] = {"cpu": _cpu, "cuda": _gpu}


def _device(backend: Backend) -> str:
    return getattr(backend, "device", "cpu")
