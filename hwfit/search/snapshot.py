"""Snapshot: a copy of what trains and of its optimiser's state, in memory, to go back to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from hwfit.search import checkpoint, parallel

SOUND = "sound."
"""Prefix of a snapshot's tensors in a checkpoint."""
SPARE = 1 / 32
"""Part of a GPU's free memory that a snapshot may take; a larger one is kept in the machine's memory."""
COPIES = 3
"""Of the parameters' bytes that a snapshot holds: they and two moments."""


class Snapshot:
    """Of a module's trained parameters and an Adam-like optimiser; under FSDP each process keeps its own shards.

    What a snapshot lacks when it is gone back to, as moments before the first step, is zero: as Adam begins.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer):
        self._module, self._optimizer = module, optimizer
        self._kept: dict[str, Tensor] = {}
        trained = [parallel.local(p) for p in module.parameters() if p.requires_grad]
        there = [p for p in trained if p.device.type == "cuda"]
        free = torch.cuda.mem_get_info(there[0].device)[0] if there else 0
        self._elsewhere = bool(there) and COPIES * sum(p.nbytes for p in there) > SPARE * free

    @torch.no_grad()
    def take(self) -> None:
        """Copy the state as it is now, over the last copy."""
        for name, t in self._live().items():
            mine = parallel.local(t).detach()
            if name in self._kept:
                self._kept[name].copy_(mine)
            else:
                self._kept[name] = mine.to(self._place(mine), copy=True)

    @torch.no_grad()
    def back(self) -> None:
        """Make the state what it was, in the very tensors that it lives in: a recorded step reads those."""
        for name, t in self._live().items():
            mine = parallel.local(t)
            if name in self._kept:
                mine.copy_(self._kept[name])
            else:
                mine.zero_()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Its tensors as a checkpoint names them, sharded as those they are copies of; all processes must ask."""
        live = self._live()
        for name, kept in self._kept.items():
            yield SOUND + name, parallel.sharded_like(kept, live[name])

    @torch.no_grad()
    def read(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `tensors`: the copy becomes what a checkpoint holds, however many processes wrote it."""
        live = self._live()
        self._kept.clear()
        for name, whole in tensors.items():
            if name.startswith(SOUND):
                like = live[name.removeprefix(SOUND)]
                mine = parallel.local(parallel.split_like(whole, like) if whole.ndim else whole)
                self._kept[name.removeprefix(SOUND)] = mine.to(self._place(parallel.local(like)), copy=True)

    def _live(self) -> dict[str, Tensor]:
        trained = {n: p for n, p in self._module.named_parameters() if p.requires_grad}
        return trained | checkpoint.optimizer_tensors(self._optimizer, "adam")

    def _place(self, t: Tensor) -> torch.device:
        return torch.device("cpu") if self._elsewhere else t.device
