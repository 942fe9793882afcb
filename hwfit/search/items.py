"""Items: a pick's precisions, and MLP widths where blocks have their own, as decisions that add up: one option each.

A linear is an item of its own, or a block is one where its linears share a precision. What an MLP's linears cost
depends on its width, so where blocks have their own, width and precisions of `MLP` are one item; of its many options
those are kept that are best at some price.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwfit.subnet import LINEARS

Array = NDArray[np.float64]
Index = NDArray[np.intp]
MLP = LINEARS[4:]
PRICES = np.concatenate([[0.0], np.logspace(-5, 7, 145)])
"""Nats for a whole limit, from nothing to more than any damage."""
UNDOMINATED = 1024
"""Options of an MLP up to which all are compared with each other."""


@dataclass(frozen=True)
class Tables:
    """Damages by block, and what choices add to what is used, in shares of the limits and the same in every block."""

    harm: Array  # [blocks, 7, precisions]
    moved: Array  # [limits, MLP widths, 7, precisions]
    mlp_harm: Array  # [blocks, MLP widths]
    mlp_moved: Array  # [limits, MLP widths]


@dataclass(frozen=True)
class Items:
    """`harm` [items, options] and `moved` [limits, items, options]; `read` gives what an option of each item means:
    precisions [blocks, 7] and MLP widths [blocks], as indices into the tables'."""

    harm: Array
    moved: Array
    read: Callable[[Index], tuple[Index, Index]]


def linears(t: Tables) -> Items:
    """An item for each linear; all blocks have the first MLP width."""
    blocks, _, options = t.harm.shape

    def read(chosen: Index) -> tuple[Index, Index]:
        return chosen.reshape(blocks, len(LINEARS)), np.zeros(blocks, np.intp)

    return Items(t.harm.reshape(-1, options), np.tile(t.moved[:, 0], (1, blocks, 1)), read)


def blocks(t: Tables) -> Items:
    """An item for each block: one precision for all its linears, and an MLP width."""
    count, _, options = t.harm.shape
    harm = t.mlp_harm[:, :, None] + t.harm.sum(1)[:, None, :]  # [blocks, widths, precisions]
    moved = t.mlp_moved[:, :, None] + t.moved.sum(2)  # [limits, widths, precisions]
    every = np.tile(moved.reshape(len(moved), 1, -1), (1, count, 1))

    def read(chosen: Index) -> tuple[Index, Index]:
        width, precision = np.divmod(chosen, options)
        return np.repeat(precision[:, None], len(LINEARS), 1), width

    return Items(harm.reshape(count, -1), every, read)


def mlps(t: Tables) -> Items:
    """An item for each linear of attention, and one for each block's MLP."""
    count, rest = len(t.harm), len(LINEARS) - len(MLP)
    width, precision = _best_at_some_price(t)  # [blocks, options], [blocks, options, 3]
    place = np.arange(len(MLP))
    block = np.arange(count)[:, None]
    harm = t.mlp_harm[block, width] + t.harm[:, rest:][block[..., None], place, precision].sum(-1)
    moved = t.mlp_moved[:, width] + t.moved[:, :, rest:][:, width[..., None], place, precision].sum(-1)
    attention, others = t.harm[:, :rest].reshape(count * rest, -1), np.tile(t.moved[:, 0, :rest], (1, count, 1))
    most = max(harm.shape[-1], attention.shape[-1])
    attention, others, harm, moved = (padded(table, most) for table in (attention, others, harm, moved))

    def read(chosen: Index) -> tuple[Index, Index]:
        of_attention = chosen[: count * rest].clip(max=t.harm.shape[-1] - 1).reshape(count, rest)
        option = chosen[count * rest :].clip(max=width.shape[1] - 1)
        own = precision[np.arange(count), option]
        return np.concatenate([of_attention, own], 1), width[np.arange(count), option]

    return Items(np.concatenate([attention, harm]), np.concatenate([others, moved], 1), read)


def padded(table: Array, options: int) -> Array:
    """`[..., options]`, the last option repeated: what is never better than itself."""
    more = options - table.shape[-1]
    return np.concatenate([table, np.repeat(table[..., -1:], more, -1)], -1) if more > 0 else table


def _best_at_some_price(t: Tables) -> tuple[Index, Index]:
    """MLP widths `[blocks, options]` and the precisions `[blocks, options, 3]` that go with each.

    Those of least harm + price x use, for many prices of each limit and of all together. Under several limits also
    those that no other option beats in harm and in every use, if there are no more than `UNDOMINATED` options in all.
    """
    rest, limits = len(LINEARS) - len(MLP), len(t.moved)
    directions = np.concatenate([np.eye(limits), np.ones((int(limits > 1), limits))])
    weights = (directions[:, None] * PRICES[:, None]).reshape(-1, limits)  # [prices, limits]
    use = np.tensordot(weights, t.moved[:, :, rest:], 1)  # [prices, widths, 3, precisions]
    options = []
    for harm, mlp_harm in zip(t.harm[:, rest:], t.mlp_harm, strict=True):
        score = harm + use  # [prices, widths, 3, precisions]
        precision = score.argmin(-1)
        total = score.min(-1).sum(-1) + mlp_harm + weights @ t.mlp_moved  # [prices, widths]
        width = total.argmin(1)
        best = np.concatenate([width[:, None], precision[np.arange(len(width)), width]], 1)
        best = np.concatenate([best, _undominated(harm, mlp_harm, t)]) if limits > 1 else best
        options.append(np.unique(best, axis=0))
    most = max(map(len, options))
    table = np.stack([np.concatenate([o, np.repeat(o[-1:], most - len(o), 0)]) for o in options])
    return table[..., 0], table[..., 1:]


def _undominated(harm: Array, mlp_harm: Array, t: Tables) -> Index:
    """`[options, 1 + 3]`: width and precisions that no other is at least as good as in harm and in each use."""
    rest, (widths, precisions) = len(LINEARS) - len(MLP), (len(mlp_harm), harm.shape[-1])
    if widths * precisions ** len(MLP) > UNDOMINATED:
        return np.empty((0, 1 + len(MLP)), np.intp)
    every = np.stack(np.meshgrid(np.arange(widths), *[np.arange(precisions)] * len(MLP), indexing="ij"), -1)
    every = every.reshape(-1, 1 + len(MLP))
    width, place = every[:, 0], np.arange(len(MLP))
    total = mlp_harm[width] + harm[place, every[:, 1:]].sum(-1)
    use = t.mlp_moved[:, width] + t.moved[:, :, rest:][:, width[:, None], place, every[:, 1:]].sum(-1)
    points = np.concatenate([total[None], use]).T  # [options, 1 + limits]
    below = (points[:, None] <= points).all(-1) & (points[:, None] < points).any(-1)  # [better, worse]
    return every[~below.any(0)]
