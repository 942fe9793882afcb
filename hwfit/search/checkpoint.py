"""Checkpoints: tensors and a little JSON in one safetensors file, replaced atomically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from hwfit.errors import HwfitError
from hwfit.files import replacing


def save(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
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
            meta = json.loads(file.metadata()["hwfit"])
            if meta.get("key") != key:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise HwfitError(f"{path}: damaged checkpoint ({error}); delete it to start this stage again") from error


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """The state tensors of an Adam-like optimiser, by parameter position."""
    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}.{i}.{name}": t for i, entry in state.items() for name, t in entry.items() if isinstance(t, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str) -> None:
    """Inverse of `optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(prefix + "."):
            _, index, name = key.rsplit(".", 2)
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
