"""Replay: an evaluator without a model. Losses come from a log of real ones, or from damages that compound."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from hwfit.errors import HwfitError
from hwfit.latency_models.choices import Choices, one_hot
from hwfit.search.descent import descend
from hwfit.search.discretise import WIDTHS, Cost, Picked, Problem
from hwfit.search.joint import FREE, Freedom
from hwfit.search.masks import keep_gates
from hwfit.search.optimise import Costs, SearchSettings
from hwfit.search.relax import Architecture
from hwfit.search.sensitivity import Damage
from hwfit.search.strategies.base import Limits, undecided
from hwfit.space import Space

PARTS = (*WIDTHS, "lm_head")
"""What damages the whole model; after these, each block does."""


@dataclass(frozen=True)
class Replay:
    """Losses are those `recorded`, and where there is none, sum_i d_i + sum_ij K_ij d_i d_j over the damages d of the
    widths, the LM head and every kept block; K is `interaction`, None where only recorded picks have a loss.

    `damage` is what strategies are told. `expected` prices distributions by metric, `cost` subnets.
    """

    space: Space
    block_order: Sequence[int]
    damage: Damage
    cost: Cost
    expected: Costs
    interaction: Tensor | None = None  # [6 + blocks, 6 + blocks]
    recorded: Mapping[Picked, float] = field(default_factory=dict)
    settings: SearchSettings = SearchSettings(steps=60)
    trials: int | None = None
    known: dict[Picked, Mapping[str, float]] = field(default_factory=dict, repr=False, compare=False)
    """Costs, which replays that differ in their losses alone may share."""
    descents: dict[object, Sequence[Picked]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def key(self) -> str:
        parts = [t.double().numpy().tobytes() for t in (*self.damage.table.tensors(), self._interaction)]
        return f"replay {hashlib.sha256(b''.join(parts)).hexdigest()[:16]}"

    @property
    def candidates(self) -> int:
        return self.settings.candidates

    def problem(self, limits: Limits, freedom: Freedom = FREE) -> Problem:
        rules = (limits, freedom.widths, freedom.precisions, self.known)
        return Problem(self.damage.table, self.space, self.block_order, self.cost, *rules)

    def descend(self, limits: Limits, freedom: Freedom = FREE, precision: int | None = None) -> Sequence[Picked]:
        asked = (tuple(sorted(limits.items())), freedom, precision)
        if asked not in self.descents:
            self.descents[asked] = self._descended(limits, undecided(self.space, freedom, precision))
        return self.descents[asked]

    def _descended(self, limits: Limits, architecture: Architecture) -> Sequence[Picked]:
        rules = (self.expected, self.damage.surrogate, lambda choices, step: self.soft_loss(choices), limits)
        with tempfile.TemporaryDirectory() as folder:
            return descend(architecture, *rules, self.settings, Path(folder) / "descent.safetensors", self.key)[0]

    def loss(self, picked: Picked) -> float:
        """Raises `HwfitError` for a pick that is not recorded, if there is no `interaction`."""
        if (loss := self.recorded.get(picked)) is not None:
            return loss
        if self.interaction is None:
            raise HwfitError(f"{picked} is not among the {len(self.recorded)} losses on record")
        hot = one_hot(self.space, picked.subnet(self.space, self.block_order), self.block_order)
        return float(self.soft_loss(hot))

    def costs(self, picked: Picked) -> Mapping[str, float]:
        return self.cost(picked.subnet(self.space, self.block_order))

    def soft_loss(self, choices: Choices) -> Tensor:
        """The loss of a distribution whose damages are at their means; of a one-hot one, that pick's loss."""
        table = self.damage.table.map(lambda t: t.to(choices.hidden.dtype))
        keep = keep_gates(choices.depth, self.damage.depths, len(self.block_order))[self.damage.block_rank]
        rows = (choices.precision * table.precision).sum((-1, -2))  # [blocks]
        shared = [axis for axis in PARTS if axis != "mlp" or not choices.mlp_by_block]
        if choices.mlp_by_block:
            rows = rows + (choices.mlp * table.mlp).sum(-1)
        d = [(getattr(choices, a) * getattr(table, a)).sum() if a in shared else rows.new_zeros(()) for a in PARTS]
        d = torch.cat([torch.stack(d), keep * rows])
        return d.sum() + d @ self._interaction.to(d.dtype) @ d

    @property
    def _interaction(self) -> Tensor:
        size = len(PARTS) + len(self.block_order)
        return torch.zeros(size, size) if self.interaction is None else self.interaction


def compounding(blocks: int, seed: int, strength: float) -> Tensor:
    """An interaction matrix: damages add to each other's by up to twice `strength` a nat, no two pairs alike."""
    size = len(PARTS) + blocks
    raw = torch.rand(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return strength * torch.triu(raw, diagonal=1) * 2
