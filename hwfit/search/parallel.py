"""Parallel: processes that torchrun starts; each takes its share of every step's batch, the first alone writes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from hwfit.errors import HwfitError

T = TypeVar("T")


def start(device: torch.device) -> torch.device:
    """Join the others if torchrun started this process (nccl on GPUs, gloo on processors).

    Returns this process's own device. Raises `HwfitError` if there are fewer GPUs than processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    if device.type == "cuda":
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise HwfitError(
                f"torchrun --nproc-per-node {os.environ['LOCAL_WORLD_SIZE']} starts more processes than this machine "
                f"has GPUs ({gpus}); allowed: up to {gpus}, or --train-on cpu"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def wait() -> None:
    """Until all processes have come here."""
    if ranks() > 1:
        dist.barrier()


def in_turn(work: Callable[[], T]) -> T:
    """What `work` returns, run by the first process before the others, who find what it wrote."""
    if first():
        out = work()
        wait()
        return out
    wait()
    return work()


def ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def first() -> bool:
    """Whether this process prints and writes."""
    return rank() == 0


def share(count: int) -> slice:
    """This process's part of `count` sequences. Raises `HwfitError` unless all parts are equally large."""
    n = ranks()
    if count % n:
        allowed = f"{count // n * n} or {(count // n + 1) * n}" if count > n else str(n)
        raise HwfitError(f"--sequences {count} does not divide among {n} processes; allowed: multiples, as {allowed}")
    return slice(rank() * count // n, (rank() + 1) * count // n)


def mean(value: Tensor) -> Tensor:
    """The mean over all processes, without gradient."""
    value = value.detach().clone()
    if ranks() > 1:
        dist.all_reduce(value)
    return value / ranks()


def mean_gradients(params: Iterable[Tensor]) -> None:
    """Replace every gradient by its mean over all processes; one message."""
    if ranks() == 1:
        return
    device = _message_device()
    grads = []
    for p in params:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        grads.append(p.grad)
    flat = torch.cat([g.flatten().to(device) for g in grads])
    dist.all_reduce(flat)
    for g, part in zip(grads, (flat / ranks()).split([g.numel() for g in grads]), strict=True):
        g.copy_(part.view_as(g))


@torch.no_grad()
def same(tensors: Iterable[Tensor]) -> None:
    """Overwrite `tensors` with the first process's."""
    for t in tensors if ranks() > 1 else ():
        message = t.detach().to(_message_device())
        dist.broadcast(message, 0)
        t.copy_(message)


def from_first(work: Callable[[], Any]) -> Any:
    """What `work` returns (plain JSON) on the first process, on all of them; its `HwfitError` is raised on all."""
    if ranks() == 1:
        return work()
    said: dict[str, Any] = {}
    if first():
        try:
            said = {"value": work()}
        except HwfitError as error:
            said = {"problems": error.problems}
    text = json.dumps(said).encode()
    size = torch.tensor([len(text)], device=_message_device())
    dist.broadcast(size, 0)
    body = torch.zeros(int(size), dtype=torch.uint8, device=size.device)
    if first():
        body.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    dist.broadcast(body, 0)
    heard = json.loads(body.cpu().numpy().tobytes())
    if "problems" in heard:
        raise HwfitError(heard["problems"])
    return heard["value"]


def shard(parts: Iterable[nn.Module], whole: nn.Module) -> None:
    """Split weights, gradients and optimiser state over all processes (FSDP2), gathered a part at a time."""
    if ranks() > 1:
        for part in parts:
            fully_shard(part)
        fully_shard(whole)


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor; all processes must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def split_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Inverse of `gathered`: sharded as `like` is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a sharded tensor, the same memory; any other tensor is its own."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def sharded_like(part: Tensor, like: Tensor) -> Tensor:
    """Inverse of `local`: a shard as the sharded tensor that it is of."""
    if not isinstance(like, DTensor):
        return part
    placed = part.to(like.to_local().device)
    shape = {"shape": like.shape, "stride": like.stride()}
    return DTensor.from_local(placed, like.device_mesh, like.placements, run_check=False, **shape)


def unshard(part: nn.Module) -> None:
    """Gather a sharded part's weights; `reshard` lets go of them."""
    if isinstance(part, FSDPModule):
        part.unshard()


def reshard(part: nn.Module) -> None:
    if isinstance(part, FSDPModule):
        part.reshard()


def _message_device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
