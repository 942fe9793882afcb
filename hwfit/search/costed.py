"""Costed: what a whole space costs, and which of its subnets comes closest to limits.

Costs are the same in every block, so that precisions are counts: how many blocks have a linear at each. At given widths
an integer programme finds the counts; Lagrangian bounds, computed for all widths at once, leave few to be solved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from hwfit.latency_models.choices import Choices
from hwfit.search.budget import needed, shares
from hwfit.search.costs import ExpectedCosts
from hwfit.search.discretise import WIDTHS
from hwfit.space import Space
from hwfit.subnet import LINEARS

Array = NDArray[np.float64]
SAMPLES = 96
"""Multipliers that a bound is the best of."""
TOLERANCE = 1e-6
SECONDS = 5.0
CHUNK = 1 << 22
"""Numbers in a batch of distributions."""


@dataclass(frozen=True)
class Costed:
    """The costs of a space: `base[metric][width]` at the first precision, and what others add.

    `moved[metric][width, linear, precision]` is what all blocks together take more at a precision; the last linear is
    the LM head. `limits` are what is to be kept.
    """

    base: Mapping[str, Array]
    changed: Mapping[str, Array]
    counts: Array  # [width, linear]: blocks that choose it
    limits: Mapping[str, float]

    @classmethod
    def of(cls, costs: ExpectedCosts, limits: Mapping[str, float]) -> Costed:
        names = needed(limits)
        space = costs.space
        widths = list(product(*(range(len(getattr(space, axis))) for axis in WIDTHS)))
        several = _one_changed(space)
        size = max(1, CHUNK // (several.precision.numel() + 1))
        parts: dict[str, list[Array]] = {name: [] for name in names}
        for start in range(0, len(widths), size):
            choices = _at_widths(space, widths[start : start + size], several)
            for name in names:
                with torch.no_grad():
                    parts[name].append(costs[name](choices).numpy())
        whole = {name: np.concatenate(part) for name, part in parts.items()}  # [widths, 1 + linears x precisions]
        shape = (len(widths), len(LINEARS) + 1, len(space.precisions))
        depth = np.array([space.depth[w[-1]] for w in widths], dtype=float)
        counts = np.concatenate([np.tile(depth[:, None], len(LINEARS)), np.ones((len(widths), 1))], axis=1)
        base = {name: value[:, 0] for name, value in whole.items()}
        return cls(base, {name: value[:, 1:].reshape(shape) for name, value in whole.items()}, counts, limits)

    def within(self, limits: Mapping[str, float]) -> Costed:
        """With other limits on some of the same metrics."""
        return Costed(self.base, self.changed, self.counts, limits)

    def lowest(self, metrics: Sequence[str] = (), enough: float = 0.0) -> dict[str, float] | None:
        """The costs of a subnet whose largest share of a limit is least, or no more than `enough`.

        With `metrics`, their limits alone are shares to lower, and the other limits are kept; None if that cannot be.
        """
        here, moved = self._shares()
        lowered = np.array([not metrics or name in metrics for name in self.limits])
        bound = _bounds(here, moved, lowered)
        best, found = np.inf, None
        for w in np.argsort(bound, kind="stable"):
            if bound[w] >= best - TOLERANCE or best <= enough:
                break
            counts = _solve(here[:, w], moved[:, w], self.counts[w], lowered)
            if counts is None:
                continue
            used = here[:, w] + (moved[:, w] * (counts / self.counts[w][:, None])).sum((1, 2))
            if (value := used[lowered].max()) < best:
                best, found = value, self._costs(int(w), counts)
        return found

    def _shares(self) -> tuple[Array, Array]:
        """Shares of the limits, [limits, widths] at the first precision and [limits, widths, linears, precisions]."""
        pace = self.base.get("decode", np.ones(()))
        here = np.array(shares(self.limits, self.base, pace))  # pyright: ignore[reportArgumentType]
        wide = pace[..., None, None] if pace.ndim else pace
        changed = np.array(shares(self.limits, self.changed, wide))  # pyright: ignore[reportArgumentType]
        return here, changed - here[..., None, None]

    def _costs(self, w: int, counts: Array) -> dict[str, float]:
        """The costs of `counts` blocks at each precision."""
        share = counts / self.counts[w][:, None]

        def summed(base: Array, changed: Array) -> float:
            return float(base[w] + (share * (changed[w] - base[w])).sum())

        out = {name: summed(base, self.changed[name]) for name, base in self.base.items() if name != "power"}
        if "power" in self.base:
            joules = [of["power"] * of["decode"] for of in (self.base, self.changed)]
            out["power"] = summed(*joules) / out["decode"]
        return out


def _one_changed(space: Space) -> Choices:
    """Distributions that are certain: the first precision everywhere, then each linear at each in all blocks."""
    p, k = len(space.precisions), len(LINEARS)
    index = torch.zeros(1 + (k + 1) * p, k + 1, dtype=torch.long)
    for i, (linear, option) in enumerate(product(range(k + 1), range(p)), 1):
        index[i, linear] = option
    hot = torch.nn.functional.one_hot(index, p).double()  # [changes, linears + 1, precisions]
    rows = hot[:, None, :k].expand(-1, space.shape.blocks, -1, -1)
    none = torch.zeros(0)
    return Choices(none, none, none, none, none, precision=rows, lm_head=hot[:, k])


def _at_widths(space: Space, widths: Sequence[tuple[int, ...]], several: Choices) -> Choices:
    """`several` precisions at each of `widths`: [widths, changes, …]."""
    index = torch.tensor(widths)
    hot = {
        axis: torch.nn.functional.one_hot(index[:, i], len(getattr(space, axis))).double()[:, None]
        for i, axis in enumerate(WIDTHS)
    }
    return Choices(**hot, precision=several.precision[None], lm_head=several.lm_head[None])


def _bounds(here: Array, moved: Array, lowered: NDArray[np.bool_]) -> Array:
    """[widths]: what the largest lowered share is at least, the other shares at most 1: Lagrangian bounds."""
    rng = np.random.default_rng(0)
    n = len(lowered)
    weights = [np.where(lowered, 1.0, 0.0) / lowered.sum(), *np.eye(n)[lowered]]
    for _ in range(SAMPLES if n > 1 else 0):
        weight = np.where(lowered, rng.dirichlet(np.full(n, 0.7)), 0.0)
        weights.append(weight / weight.sum() + np.where(lowered, 0.0, 10 ** rng.uniform(-2, 2, n)))
    bound = np.full(here.shape[1], -np.inf)
    for weight in weights:
        mixed = np.tensordot(weight, moved, 1)  # [widths, linears, precisions]
        bound = np.maximum(bound, weight @ here + mixed.min(-1).sum(-1) - weight[~lowered].sum())
    possible = (here + moved.min(-1).sum(-1))[~lowered].max(0, initial=-np.inf) <= 1 + TOLERANCE
    return np.where(possible, bound, np.inf)


def _solve(here: Array, moved: Array, counts: Array, lowered: NDArray[np.bool_]) -> Array | None:
    """[linears, precisions]: blocks at each precision, so that the largest lowered share is least; None if none fits.

    `here` [limits] and `moved` [limits, linears, precisions] are shares, `counts` [linears] the blocks to decide.
    """
    limits, linears, options = moved.shape
    per = (moved / counts[:, None]).reshape(limits, -1)
    # variables: the blocks at each precision of each linear, then the largest lowered share
    shared = LinearConstraint(np.c_[per, -lowered.astype(float)], -np.inf, np.where(lowered, 0.0, 1.0) - here)  # pyright: ignore
    all_blocks = np.c_[np.kron(np.eye(linears), np.ones(options)), np.zeros(linears)]
    objective = np.zeros(linears * options + 1)
    objective[-1] = 1
    done = milp(
        objective,
        constraints=[shared, LinearConstraint(all_blocks, counts, counts)],  # pyright: ignore[reportArgumentType]
        integrality=1 - objective,
        bounds=Bounds(np.r_[np.zeros(linears * options), -np.inf], np.r_[np.repeat(counts, options), np.inf]),
        options={"time_limit": SECONDS, "mip_rel_gap": 1e-4},
    )
    return None if done.x is None else np.round(done.x[:-1]).reshape(linears, options)
