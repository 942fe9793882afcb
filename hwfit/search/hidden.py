"""Hidden states of the original, as a second thing for a student to be near to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hwfit.search.forward import Attention, plain_forward
from hwfit.search.importance import Ordered
from hwfit.subnet import ModelShape, Subnet


class HiddenStates:
    """The original's residual stream after every block the student keeps, run anew for each batch.

    A student's hidden channels are the first of the original's, so they compare one by one. Keeps a copy of the
    original in `dtype`.
    """

    def __init__(self, ordered: Ordered, config: Mapping[str, Any], subnet: Subnet, dtype: torch.dtype):
        shape = ModelShape.from_config(config)
        self.subnet, self.depth, self.eps = subnet, shape.blocks, float(config["rms_norm_eps"])
        self.attention = Attention.of(shape.heads, shape.kv_heads, shape.head_size, config)
        self.weights = {name: w.to(dtype) for name, w in ordered.weights.items()}
        self._wanted: dict[int, Tensor] = {}
        self._distances: list[Tensor] = []

    @torch.no_grad()
    def watch(self, ids: Tensor) -> Callable[[int, Tensor], None]:
        """Runs the original over `ids[n, seq]`; returns what the student is to be run with as `seen`."""
        kept = {block + 1: i for i, block in enumerate(self.subnet.blocks)}  # the original is seen before each block
        self._wanted, self._distances = {}, []

        def original(block: int, x: Tensor) -> None:
            if block in kept:
                self._wanted[kept[block]] = x[..., : self.subnet.hidden].float()

        plain_forward(ids, self.weights, self.attention, self.depth, self.eps, seen=original)

        def student(i: int, x: Tensor) -> None:
            wanted = self._wanted.pop(i)
            off = (x.float() - wanted).square().mean(-1) / wanted.square().mean(-1).clamp_min(1e-12)  # [n, seq]
            self._distances.append(off.mean())

        return student

    def distance(self) -> Tensor:
        """Mean squared error over mean square, averaged over positions and kept blocks."""
        return torch.stack(self._distances).mean()
