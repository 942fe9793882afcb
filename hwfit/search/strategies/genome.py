"""Genome: a pick as one row of numbers, one gene for everything a space lets be chosen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwfit.search.discretise import WIDTHS, Picked
from hwfit.space import Space
from hwfit.subnet import LINEARS

Genes = NDArray[np.int64]
Codes = tuple[int, ...]


class Genome:
    """Genes in order: the widths that all blocks share, MLP widths where blocks have their own, each block's
    precisions (one where its linears share it), the LM head's. Each is an index into what is offered there."""

    def __init__(self, space: Space):
        self.space, blocks = space, space.shape.blocks
        self.axes = [axis for axis in WIDTHS if axis != "mlp" or not space.mlp_per_block]
        self.linears, self.head = space.options(LINEARS[0]), space.options("lm_head")
        self.rows = 1 if space.precision_per == "block" else len(LINEARS)
        own = [len(space.mlp)] * (blocks if space.mlp_per_block else 0)
        shared = [len(getattr(space, axis)) for axis in self.axes]
        self.sizes = np.array([*shared, *own, *[len(self.linears)] * (blocks * self.rows), len(self.head)])
        self.widths = len(shared) + len(own)
        """The genes below this are widths, the others precisions."""

    def encode(self, picked: Picked) -> Codes:
        """Raises `ValueError` for a precision that is not offered."""
        own = picked.mlp if isinstance(picked.mlp, tuple) else ()
        rows = (self.linears.index(p) for row in picked.precision for p in row[: self.rows])
        return (*(getattr(picked, axis) for axis in self.axes), *own, *rows, self.head.index(picked.lm_head))

    def decode(self, codes: Sequence[int]) -> Picked:
        """Raises `ValueError` for what is outside the space."""
        numbers = [int(c) for c in codes]
        if len(numbers) != len(self.sizes) or any(not 0 <= c < n for c, n in zip(numbers, self.sizes, strict=True)):
            raise ValueError("not a pick of this space")
        chosen = dict(zip(self.axes, numbers, strict=False))
        linears = [self.linears[c] for c in numbers[self.widths : -1]]
        repeat = len(LINEARS) // self.rows
        rows = tuple(tuple(linears[i : i + self.rows] * repeat) for i in range(0, len(linears), self.rows))
        mlp = chosen.get("mlp", tuple(numbers[len(self.axes) : self.widths]))
        return Picked(**{**chosen, "mlp": mlp}, precision=rows, lm_head=self.head[numbers[-1]])

    @cached_property
    def units(self) -> list[Genes]:
        """Genes that mean something together, each in one unit: every shared width, every block, the LM head."""
        blocks = self.space.shape.blocks
        rows = np.arange(self.widths, len(self.sizes) - 1).reshape(blocks, self.rows)
        own = np.arange(len(self.axes), self.widths).reshape(blocks if self.space.mlp_per_block else 0, 1)
        by_block = [np.concatenate([*own[b : b + 1], rows[b]]) for b in range(blocks)]
        return [*np.arange(len(self.axes))[:, None], *by_block, np.array([len(self.sizes) - 1])]

    @cached_property
    def precisions(self) -> list[Genes]:
        """Precisions that a model may well have in common: a block's, those of one kind of linear, the LM head's."""
        rows = np.arange(self.widths, len(self.sizes) - 1).reshape(self.space.shape.blocks, self.rows)
        return [*rows, *rows.T, np.array([len(self.sizes) - 1])]
