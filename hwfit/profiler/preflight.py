"""Preflight: what would spoil a profile on a device, found before anything is timed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection

import psutil

from hwfit.errors import raise_all
from hwfit.kernels.op import linear
from hwfit.precision import Precision
from hwfit.profiler.device_kinds import get_backend
from hwfit.profiler.nvml import Nvml, Process
from hwfit.space import Space
from hwfit.subnet import ModelShape, Subnet
from hwfit.workload import Workload

BUSY = 10
"""Per cent of time with a kernel running, while this process runs none, from which a GPU counts as busy."""
LOOKS, BETWEEN = 4, 0.2
SPARE = 2_000_000_000
"""Bytes kept for activations, anchors and CUDA graphs."""


def preflight(device: str, allow_busy: bool = False, allow_mig: bool = False) -> None:
    """Raises `HwfitError` for a GPU that is shared, unless the flags allow it. Processors are never refused."""
    if device == "cuda":
        from hwfit.kernels.cuda_env import cuda_problems, current_gpu

        raise_all(cuda_problems())
        # before CUDA starts here, so that every process on the GPU is another's
        others = foreign(Nvml(*_first_visible()).others())
        gpu = current_gpu()
        nvml = Nvml(gpu.index, gpu.uuid)
        raise_all(gpu_problems(nvml, others, allow_busy, allow_mig))


def refuse_too_large(device: str, space: Space, workload: Workload) -> None:
    """Raises `HwfitError` if the whole model, which is timed first, does not fit into a GPU, naming what would."""
    if device == "cuda":
        from hwfit.kernels.cuda_env import free_memory

        whole = Subnet.whole(space.shape, space.precisions[0], space.embed)
        raise_all(memory_problems(whole, workload, free_memory(), space.precisions))


def refuse_precisions(device: str, space: Space) -> None:
    """Raises `HwfitError` naming every precision of `space` that a GPU lacks, which devices have it and what to use.

    Processors write such cells down as unsupported instead.
    """
    if device == "cuda":
        backend, widest = get_backend(device), max(space.hidden)
        reasons = {p.name: backend.why_not(linear(1, widest, widest, p.name)) for p in space.precisions}
        raise_all([f"--precision {name}: {reason}" for name, reason in reasons.items() if reason])


def gpu_problems(
    nvml: Nvml,
    others: Collection[Process],
    allow_busy: bool = False,
    allow_mig: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Why times on this GPU would not be its own, one line each."""
    problems = []
    if nvml.facts().mig and not allow_mig:
        problems.append(
            "--device cuda: the GPU is in MIG mode, so times hold for one partition of it only and power and energy "
            "are the whole GPU's; give --allow-mig to measure the partition all the same"
        )
    if allow_busy:
        return problems
    if others:
        who = ", ".join(f"{p.pid}" + (f" ({p.memory / 1e9:.1f} GB)" if p.memory else "") for p in others)
        problems.append(
            f"--device cuda: other processes compute on the GPU: {who}; wait for them or end them, pick another GPU "
            "with CUDA_VISIBLE_DEVICES, or give --allow-busy to measure beside them"
        )
    elif (used := _utilisation(nvml, sleep)) >= BUSY:
        problems.append(
            f"--device cuda: kernels of someone else run {used} % of the time (allowed: below {BUSY} %); wait, pick "
            "another GPU with CUDA_VISIBLE_DEVICES, or give --allow-busy"
        )
    return problems


def foreign(processes: Collection[Process]) -> list[Process]:
    """Those that are not this process, whose number the driver may tell differently inside a container."""
    import torch

    found = [p for p in processes if p.pid != os.getpid()]
    if torch.cuda.is_initialized() and len(found) == len(processes):
        unknown = [p for p in found if not psutil.pid_exists(p.pid)]
        found = [p for p in found if p not in unknown[:1]]
    return found


def memory_problems(subnet: Subnet, workload: Workload, free: int, precisions: Collection[Precision]) -> list[str]:
    """Why `subnet`, the largest to be timed whole, does not fit into `free` bytes of the GPU, and what would."""
    need = whole_bytes(subnet, workload)
    if need <= free:
        return []
    shape = ModelShape(
        subnet.hidden,
        subnet.heads,
        subnet.kv_heads,
        subnet.head_size,
        max(subnet.mlp),
        len(subnet.blocks),
        subnet.vocab,
    )
    smaller = {p.name: whole_bytes(Subnet.whole(shape, p, subnet.embed), workload) for p in precisions}
    fitting = [f"--precision {name} ({size / 1e9:.1f} GB)" for name, size in smaller.items() if size <= free]
    told = ", ".join(fitting) or "no precision of this space; fewer blocks or a smaller model"
    return [
        f"--device cuda: the whole model needs {need / 1e9:.1f} GB of GPU memory, {free / 1e9:.1f} GB are free; what "
        f"would fit: {told}; or measure layers only with --whole-models 0"
    ]


def whole_bytes(subnet: Subnet, workload: Workload) -> int:
    """GPU memory that timing a whole subnet takes: weights, 16-bit key/value cache, activations and room to spare."""
    length = max(workload.prompt, workload.context)
    cache = 4 * workload.batch * length * subnet.kv_heads * subnet.head_size * len(subnet.blocks)
    widest = max(*subnet.mlp, subnet.heads * subnet.head_size, subnet.hidden)
    activations = 2 * workload.prefill.m * (3 * widest + 4 * subnet.hidden)
    return subnet.weight_bytes + cache + activations + SPARE


def _utilisation(nvml: Nvml, sleep: Callable[[float], None]) -> int:
    """The least of a few looks: NVML still tells of this process's own start."""
    looks = []
    for _ in range(LOOKS):
        sleep(BETWEEN)
        looks.append(nvml.utilisation() or 0)
    return min(looks)


def _first_visible() -> tuple[int, str | None]:
    """NVML's index and number of the GPU that torch will take; NVML itself ignores CUDA_VISIBLE_DEVICES."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    return (int(first), None) if first.isdigit() else (0, first if first.startswith("GPU-") else None)
