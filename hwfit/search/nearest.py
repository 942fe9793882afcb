"""Nearest: the subnet of a costed space that comes closest to limits, or goes lowest on some while it keeps the others.

At given widths an integer programme finds how many blocks take each option; Lagrangian bounds, computed for all widths
at once, leave few to be solved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from hwfit.search.costed import Array, Costed

SAMPLES = 96
"""Multipliers that a bound is the best of."""
TOLERANCE = 1e-6
SECONDS = 5.0
MANY = 64
"""Options of a kind from which those that others undercut on every limit are left out."""


def lowest(
    costed: Costed, limits: Mapping[str, float], metrics: Sequence[str] = (), enough: float = 0.0
) -> dict[str, float] | None:
    """The quantities of a subnet whose largest share of a limit is least, or no more than `enough`.

    With `metrics`, their limits alone are shares to lower, and the other limits are kept; None if that cannot be.
    """
    base, kinds = costed.shares(limits)
    lowered = np.array([not metrics or name in metrics for name in limits])
    bound = _bounds(base, kinds, lowered)
    best, found = np.inf, None
    for w in np.argsort(bound, kind="stable"):
        if bound[w] >= best - TOLERANCE or best <= enough:
            break
        here, added = base[:, w], [kind[:, w] for kind in kinds]
        counts = _solve(here, added, costed.counts[w], lowered)
        if counts is None:
            continue
        used = here + sum(a @ (c / n) for a, c, n in zip(added, counts, costed.counts[w], strict=True))
        if (value := used[lowered].max()) < best:
            best, found = value, costed.costs(int(w), counts)
    return found


def _bounds(base: Array, kinds: Sequence[Array], lowered: NDArray[np.bool_]) -> Array:
    """[widths]: what the largest lowered share is at least, the other shares at most 1: Lagrangian bounds."""
    rng = np.random.default_rng(0)
    n = len(lowered)
    weights = [np.where(lowered, 1.0, 0.0) / lowered.sum(), *np.eye(n)[lowered]]
    for _ in range(SAMPLES if n > 1 else 0):
        weight = np.where(lowered, rng.dirichlet(np.full(n, 0.7)), 0.0)
        weights.append(weight / weight.sum() + np.where(lowered, 0.0, 10 ** rng.uniform(-2, 2, n)))
    bound = np.full(base.shape[1], -np.inf)
    for weight in weights:
        least = sum(np.tensordot(weight, kind, 1).min(-1) for kind in kinds)
        bound = np.maximum(bound, weight @ base + least - weight[~lowered].sum())
    alone = (base + sum(kind.min(-1) for kind in kinds))[~lowered]
    return np.where(alone.max(0, initial=-np.inf) <= 1 + TOLERANCE, bound, np.inf)


def _solve(here: Array, added: Sequence[Array], counts: Array, lowered: NDArray[np.bool_]) -> list[Array] | None:
    """Blocks at each option of each kind, so that the largest lowered share is least; None if none fits.

    `here` [limits] and `added` [limits, options] of each kind are shares, `counts` [kinds] the blocks to decide.
    """
    useful = [_useful(a) for a in added]
    per = np.concatenate([a[:, u] / n for a, u, n in zip(added, useful, counts, strict=True)], 1)
    kind = np.repeat(np.arange(len(added)), [len(u) for u in useful])
    # variables: the blocks at each option of each kind, then the largest lowered share
    rows = LinearConstraint(
        np.c_[per, -lowered.astype(float)], -np.inf, np.where(lowered, 0.0, 1.0) - here  # pyright: ignore
    )  # fmt: skip
    every = np.c_[kind == np.arange(len(added))[:, None], np.zeros(len(added))].astype(float)
    objective = np.r_[np.zeros(len(kind)), 1.0]
    done = milp(
        objective,
        constraints=[rows, LinearConstraint(every, counts, counts)],  # pyright: ignore[reportArgumentType]
        integrality=1 - objective,
        bounds=Bounds(np.r_[np.zeros(len(kind)), -np.inf], np.r_[counts[kind], np.inf]),
        options={"time_limit": SECONDS, "mip_rel_gap": 1e-4},
    )
    if done.x is None:
        return None
    out = [np.zeros(a.shape[1]) for a in added]
    for i, (o, u) in enumerate(zip(out, useful, strict=True)):
        o[u] = np.round(done.x[:-1][kind == i])
    return out


def _useful(added: Array) -> NDArray[np.intp]:
    """Options [options] that no other undercuts: all of few."""
    if added.shape[1] <= MANY:
        return np.arange(added.shape[1])
    _, first = np.unique(added, axis=1, return_index=True)
    some = added[:, first]
    beaten = [((some <= column).all(0) & (some < column).any(0)).any() for column in some.T[:, :, None]]
    return first[~np.array(beaten)]
