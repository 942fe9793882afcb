"""Live bytes: how much memory the tensors of a piece of code hold, now and at most."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts every storage that an operation makes while this is entered, until it is freed.

    `now` and `peak` are in bytes; set `peak = now` to begin again. Views and in-place results count once. What an
    operation uses inside itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.finalize] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.layout is torch.strided:
                self._count(leaf.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        known = self._known.get(key)
        if known is None or not known.alive:
            self._known[key] = weakref.finalize(storage, self._freed, size)
            self.now += size
            self.peak = max(self.peak, self.now)

    def _freed(self, size: int) -> None:
        self.now -= size
