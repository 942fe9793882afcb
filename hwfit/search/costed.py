"""Costed: what all of a space costs, in sums of what its parts add.

Costs are the same in every block, so a subnet is a choice of shared widths and, for each kind of part, how many blocks
have it at each option: a linear at a precision, a block's linears where they share one, an MLP at a width of its own
and three precisions, the LM head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwfit.latency_models.choices import Choices
from hwfit.search.costs import ExpectedCosts
from hwfit.search.discretise import WIDTHS
from hwfit.space import Space
from hwfit.subnet import LINEARS

Array = NDArray[np.float64]
CHUNK = 1 << 22
"""Numbers in a batch of distributions."""
ATTENTION = 4
"""The first linears of a block are attention's, the rest the MLP's."""


@dataclass(frozen=True)
class Costed:
    """Additive quantities: `base[name][width]` at every first option, `kinds[kind][name][width, option]` what all
    blocks together add at an option, `counts[width, kind]` how many blocks choose it.

    `batch` sequences share a call of decode.
    """

    base: Mapping[str, Array]
    kinds: Sequence[Mapping[str, Array]]
    counts: Array
    batch: int

    @classmethod
    def of(cls, costs: ExpectedCosts, limits: Mapping[str, float]) -> Costed:
        """Of the quantities that shares of `limits` are made of. Raises as `ExpectedCosts`."""
        space, changes = costs.space, _Changes.of(costs.space)
        sizes = [1 if axis == "mlp" and space.mlp_per_block else len(getattr(space, axis)) for axis in WIDTHS]
        widths = list(product(*map(range, sizes)))
        size = max(1, CHUNK // changes.precision.numel())
        parts = []
        for start in range(0, len(widths), size):
            choices = changes.at(space, widths[start : start + size])
            with torch.no_grad():
                parts.append({name: costs[name](choices).numpy() for name in quantities(limits)})
        tables = {name: changes.tables(np.concatenate([part[name] for part in parts])) for name in parts[0]}
        by_kind = zip(*(_kinds(space, t) for t in tables.values()), strict=True)
        kinds = [dict(zip(tables, kind, strict=True)) for kind in by_kind]
        depth = np.array([space.depth[w[-1]] for w in widths], dtype=float)[:, None]
        counts = np.concatenate([np.repeat(depth, len(kinds) - 1, 1), np.ones_like(depth)], 1)
        return cls({name: t.base for name, t in tables.items()}, kinds, counts, costs.workload.batch)

    def shares(self, limits: Mapping[str, float]) -> tuple[Array, list[Array]]:
        """What each limit is used to, 1 at the most: [limits, widths], and by kind [limits, widths, options] added."""
        pace = self.base["decode"].min() if "decode" in self.base else 1.0
        constant, per = _affine(limits, float(pace), self.batch, list(self.base))
        base = constant[:, None] + np.tensordot(per, np.stack(list(self.base.values())), 1)
        return base, [np.tensordot(per, np.stack(list(kind.values())), 1) for kind in self.kinds]

    def costs(self, width: int, counts: Sequence[Array]) -> dict[str, float]:
        """Quantities of so many blocks at each option of each kind."""
        return {
            name: float(
                self.base[name][width]
                + sum((c / n) @ k[name][width] for k, c, n in zip(self.kinds, counts, self.counts[width], strict=True))
            )
            for name in self.base
        }


def quantities(limits: Mapping[str, float]) -> tuple[str, ...]:
    """The additive quantities that limits are about: energy and time for power, weights for a floor on them."""
    names = {"1/params": ("params",), "power": ("energy", "decode")}
    return tuple(dict.fromkeys(name for limit in limits for name in names.get(limit, (limit,))))


def _affine(limits: Mapping[str, float], pace: float, batch: int, names: list[str]) -> tuple[Array, Array]:
    """Constants [limits] and factors [limits, quantities]: `hwfit.search.budget.shares` of the quantities."""
    constant, factors = np.zeros(len(limits)), np.zeros((len(limits), len(names)))
    for i, (metric, limit) in enumerate(limits.items()):
        if metric == "power":
            constant[i] = 1.0
            factors[i, names.index("energy")] = batch / (limit * pace)
            factors[i, names.index("decode")] = -1 / pace
        elif metric == "1/params":
            constant[i], factors[i, names.index("params")] = 2.0, -limit
        else:
            factors[i, names.index(metric)] = 1 / limit
    return constant, factors


@dataclass(frozen=True)
class _Tables:
    """One quantity at all widths: at first options, at an MLP width of a block's own, and with one linear changed."""

    base: Array  # [widths]
    at: Array  # [widths, MLP widths]
    linear: Array  # [widths, MLP widths, 7, precisions]
    head: Array  # [widths, precisions]


def _kinds(space: Space, t: _Tables) -> list[Array]:
    """What the options of each kind of part add, [widths, options]; the LM head's last."""
    wider, added = t.at - t.base[:, None], t.linear - t.at[..., None, None]
    if space.precision_per == "block":
        kinds = [wider[..., None] + added.sum(-2)]
    elif space.mlp_per_block:
        gate, up, down = (added[:, :, i] for i in range(ATTENTION, len(LINEARS)))
        mlp = wider[..., None, None, None] + gate[..., None, None] + up[..., None, :, None] + down[..., None, None, :]
        kinds = [*(added[:, 0, i] for i in range(ATTENTION)), mlp]
    else:
        kinds = [added[:, 0, i] for i in range(len(LINEARS))]
    return [kind.reshape(len(t.base), -1) for kind in (*kinds, t.head - t.base[:, None])]


@dataclass(frozen=True)
class _Changes:
    """Certain distributions: first options, then one thing changed in all blocks."""

    mlp: Tensor | None  # [changes, blocks, MLP widths]
    precision: Tensor  # [changes, blocks, 7, precisions]
    lm_head: Tensor  # [changes, precisions]
    sizes: tuple[int, int, int]  # MLP widths, precisions of a linear, of the LM head

    @classmethod
    def of(cls, space: Space) -> _Changes:
        linear, head = space.options(LINEARS[0]), space.options("lm_head")
        mlps = range(len(space.mlp)) if space.mlp_per_block else range(1)
        first = [linear[0]] * len(LINEARS)
        rows = [(0, first, head[0]), *((m, first, head[0]) for m in mlps)]
        for m, i, o in product(mlps, range(len(LINEARS)), linear):
            rows.append((m, [*first[:i], o, *first[i + 1 :]], head[0]))
        rows += [(0, first, o) for o in head]
        blocks, p = space.shape.blocks, len(space.precisions)
        width, row, last = (torch.tensor(column) for column in zip(*rows, strict=True))
        own = _hot(width, len(space.mlp))[:, None].expand(-1, blocks, -1) if space.mlp_per_block else None
        each = _hot(row, p)[:, None].expand(-1, blocks, -1, -1)
        return cls(own, each, _hot(last, p), (len(mlps), len(linear), len(head)))

    def at(self, space: Space, widths: Sequence[tuple[int, ...]]) -> Choices:
        """The changes at each of `widths`: [widths, changes, …]."""
        index = torch.tensor(widths)
        hot = {axis: _hot(index[:, i], len(getattr(space, axis)))[:, None] for i, axis in enumerate(WIDTHS)}
        if self.mlp is not None:
            hot["mlp"] = self.mlp[None]
        return Choices(**hot, precision=self.precision[None], lm_head=self.lm_head[None])

    def tables(self, found: Array) -> _Tables:
        """A quantity [widths, changes] by what was changed."""
        mlps, linear, _ = self.sizes
        at, rest = found[:, 1 : 1 + mlps], found[:, 1 + mlps :]
        many = mlps * len(LINEARS) * linear
        return _Tables(found[:, 0], at, rest[:, :many].reshape(-1, mlps, len(LINEARS), linear), rest[:, many:])


def _hot(index: Tensor, size: int) -> Tensor:
    return torch.nn.functional.one_hot(index, size).double()
