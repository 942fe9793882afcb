"""Checkpoints: tensors and a little JSON in one safetensors file, replaced atomically."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from hwfit.errors import HwfitError
from hwfit.files import parse_json, replacing
from hwfit.search import parallel


@dataclass
class Schedule:
    """When to save: after every `every` steps, and once `minutes` have passed since the last time (0 for never)."""

    every: int
    minutes: float
    _last: float = field(default_factory=time.monotonic)

    def due(self, done: int) -> bool:
        """Whether to save after `done` steps. By the first process's clock."""
        late = self.minutes > 0 and time.monotonic() - self._last >= 60 * self.minutes
        late = self.minutes > 0 and parallel.from_first(lambda: late)
        if late or done % self.every == 0:
            self._last = time.monotonic()
            return True
        return False


def save(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any], more: Iterable[tuple[str, Tensor]] = ()) -> None:
    """Sharded tensors are gathered, so that any number of processes can go on from here; the first one writes.

    `more` are made one at a time.
    """
    contiguous = {}
    for name, t in chain(tensors.items(), more):
        whole = parallel.gathered(t.detach())
        if parallel.first():
            contiguous[name] = whole.cpu().contiguous()
    if not parallel.first():
        return
    try:
        with replacing(path) as temporary:
            safetensors.torch.save_file(contiguous, temporary, metadata={"hwfit": json.dumps(meta)})
    except (OSError, SafetensorError) as error:
        raise HwfitError(
            f"{path}: cannot write the checkpoint ({error}); free disk space and run the same command"
        ) from error


def load(path: Path, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What `save` wrote, on the CPU, if `path` exists and its meta holds the same `key`; else None (start afresh).

    Raises `HwfitError` for a damaged file.
    """
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:  # pyright: ignore[reportAttributeAccessIssue]
            meta = parse_json(file.metadata()["hwfit"])
            if meta.get("key") != key:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise HwfitError(f"{path}: damaged checkpoint ({error}); delete it to start this stage again") from error


def resumable(path: Path, key: str, rate: float) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """`load` of a stage to go on with: one that was not done with another learning rate. Same errors."""
    saved = load(path, key)
    if saved and saved[1].get("done") and saved[1].get("lr") != rate:
        return None
    return saved


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)  # read by a recorded step
        else:
            group["lr"] = rate


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """The state tensors of an Adam-like optimiser, by parameter position."""
    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}.{i}.{name}": t for i, entry in state.items() for name, t in entry.items() if isinstance(t, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str) -> None:
    """Inverse of `optimizer_tensors`; sharded as the parameters are now."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(prefix + "."):
            _, index, name = key.rsplit(".", 2)
            if tensor.ndim:
                tensor = parallel.split_like(tensor, params[int(index)])
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def restore_parameters(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Overwrite the module's trained parameters with those of a checkpoint, sharded as they are now."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.requires_grad:
                p.copy_(parallel.split_like(tensors[name], p))
