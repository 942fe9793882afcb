"""Surface: seconds over positive sizes, through every measured point, smooth between them, silent beyond them.

A nonnegative roofline-like base (1, each size, each product of sizes) carries the trend; what is left over is
interpolated in log-log space: multilinearly inside the tightest box whose corners were all measured, else linearly
on a Delaunay triangulation. Like aiconfigurator, a knob stays only if it wins its leave-one-out comparison: see
`best_surface`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.spatial import Delaunay, QhullError

from hwfit.latency_models.conformal import conformal

Array = NDArray[np.float64]
Sizes = tuple[int, ...]
REACH = 1.10  # how far beyond the measured points an answer is still given, as a factor
NEIGHBOURS = 4  # measured values looked at on each side of a size, for the tightest box
HELD_OUT = 48  # points of a surface that are held out, at most, to judge it


def _constant(sizes: Array, seconds: Array) -> Callable[[Array], Array]:
    return lambda query: np.ones(len(query))


def _roofline(sizes: Array, seconds: Array) -> Callable[[Array], Array]:
    """Nonnegative least squares of relative error on 1, every size and every product of sizes."""
    parts = [subset for r in range(sizes.shape[1] + 1) for subset in combinations(range(sizes.shape[1]), r)]

    def features(query: Array) -> Array:  # [points, 2^axes]
        return np.stack([np.prod(query[:, subset], axis=1) for subset in parts], axis=1)

    grid = features(sizes)
    top = grid.max(axis=0)
    weights, _ = nnls(grid / top / seconds[:, None] * seconds.max(), np.full(len(seconds), seconds.max()))
    return lambda query: features(query) @ (weights / top)


BASES = {"roofline": _roofline, "constant": _constant}


@dataclass(frozen=True)
class Errors:
    """Relative errors of held-out points: median, 90th percentile (split-conformal rank) and worst of `points`."""

    median: float
    p90: float
    worst: float
    points: int

    @classmethod
    def of(cls, errors: list[float]) -> Errors:
        return cls(float(np.median(errors)), conformal(errors), max(errors), len(errors))


class Surface:
    """`surface(sizes) -> seconds`, or None more than `REACH` beyond what was measured."""

    def __init__(self, points: dict[Sizes, float], base: str = "roofline"):
        self.points = points
        self.base = base
        self.sizes = np.array(list(points), dtype=np.float64)  # [points, axes]
        seconds = np.array(list(points.values()))
        self._trend = BASES[base](self.sizes, seconds)
        rest = np.log(seconds / self._trend(self.sizes))
        self._rest = dict(zip(points, rest.tolist(), strict=True))
        self._values = [sorted(set(axis)) for axis in zip(*points, strict=True)]

    def __call__(self, sizes: Sizes) -> float | None:
        if sizes in self.points:
            return self.points[sizes]
        rest = self._inside(self._clamped(sizes))
        if rest is None:
            near = [p for p in self.points if all(1 / REACH <= a / b <= REACH for a, b in zip(sizes, p, strict=True))]
            if not near:
                return None
            rest = self._rest[min(near, key=lambda p: log_distance(sizes, p))]
        return float(self._trend(np.array([sizes], dtype=np.float64))[0] * np.exp(rest))

    def gap(self, sizes: Sizes) -> float:
        """Log distance to the nearest measured point, along the worst axis."""
        return float(np.abs(np.log(self.sizes / np.array(sizes))).max(axis=1).min())

    def held_out(self) -> list[tuple[float, float]]:
        """(relative error, gap) of points predicted from all the others; a point only they surround is left out."""
        every = list(self.points)
        chosen = every if len(every) <= HELD_OUT else [every[i] for i in _spread(len(every))]
        found = []
        for point in chosen:
            others = {p: v for p, v in self.points.items() if p != point}
            surface = Surface(others, self.base) if others else None
            if surface and (value := surface(point)) is not None:
                found.append((abs(value / self.points[point] - 1), surface.gap(point)))
        return found

    def _clamped(self, sizes: Sizes) -> tuple[float, ...]:
        """Sizes up to `REACH` outside the range of an axis are read at its edge."""
        ends = [(v[0], v[-1]) for v in self._values]
        return tuple(
            lo if lo / REACH <= s < lo else hi if hi < s <= hi * REACH else s
            for s, (lo, hi) in zip(sizes, ends, strict=True)
        )

    def _inside(self, at: tuple[float, ...]) -> float | None:
        """The interpolated log residual, or None outside the measured points."""
        box = self._box(at)
        if box is not None:
            return self._multilinear(at, box)
        if self._triangles is None or not self._matches_still(at):
            return None
        inverse, rest = self._triangles
        shares = inverse @ np.log([*(at[i] for i in self._moving), np.e])  # [triangles, corners], each sums to 1
        best = int(shares.min(axis=1).argmax())
        return float(shares[best] @ rest[best]) if shares[best].min() > -1e-9 else None

    def _box(self, at: tuple[float, ...]) -> list[tuple[int, int]] | None:
        """The tightest (low, high) per axis around `at` whose corners were all measured."""
        pairs = []
        for s, values in zip(at, self._values, strict=True):
            below = [v for v in values if v <= s][-NEIGHBOURS:]
            above = [v for v in values if v >= s][:NEIGHBOURS]
            pairs.append([(lo, hi) for lo in below for hi in above if (lo == hi) == (lo == s or hi == s)])
        boxes = sorted(product(*pairs), key=lambda box: sum(np.log(hi / lo) for lo, hi in box))
        return next((list(box) for box in boxes if all(c in self._rest for c in product(*box))), None)

    def _multilinear(self, at: tuple[float, ...], box: list[tuple[int, int]]) -> float:
        total = 0.0
        shares = [np.log(s / lo) / np.log(hi / lo) if hi > lo else 0.0 for s, (lo, hi) in zip(at, box, strict=True)]
        for corner in product((0, 1), repeat=len(box)):
            weight = np.prod([t if up else 1 - t for up, t in zip(corner, shares, strict=True)])
            if weight:
                total += weight * self._rest[tuple(pair[up] for up, pair in zip(corner, box, strict=True))]
        return float(total)

    @cached_property
    def _moving(self) -> list[int]:
        """Axes with more than one measured value."""
        return [i for i, values in enumerate(self._values) if len(values) > 1]

    def _matches_still(self, at: tuple[float, ...]) -> bool:
        return all(at[i] == values[0] for i, values in enumerate(self._values) if len(values) == 1)

    @cached_property
    def _triangles(self) -> tuple[Array, Array] | None:
        """Each Delaunay triangle's matrix from (log sizes, 1) to shares of its corners, and the corners' residuals.

        None where the points span fewer dimensions than they have axes. (scipy's own interpolator calls a threaded
        LAPACK per triangle: measured, up to a second a call on a busy machine.)
        """
        if len(self._moving) < 2 or len(self.points) <= len(self._moving):
            return None
        logs: Array = np.log(self.sizes[:, self._moving])  # [points, moving axes]
        try:
            corners = Delaunay(logs).simplices  # [triangles, corners]
        except QhullError:
            return None
        rest = np.array(list(self._rest.values()))
        square = np.concatenate([logs[corners], np.ones((*corners.shape, 1))], axis=2).transpose(0, 2, 1)
        solid = np.abs(np.linalg.det(square)) > 1e-12
        inverse: Array = np.asarray(np.linalg.inv(square[solid]), dtype=np.float64)
        return inverse, rest[corners[solid]]


def best_surface(points: dict[Sizes, float]) -> tuple[Surface, list[tuple[float, float]]]:
    """The surface whose base wins the leave-one-out comparison (median error), and its `held_out()`."""
    tried = [(surface, surface.held_out()) for surface in (Surface(points, base) for base in BASES)]
    return min(tried, key=lambda pair: np.median([e for e, _ in pair[1]]) if pair[1] else 0.0)


def log_distance(a: Sizes, b: Sizes) -> float:
    return max(abs(float(np.log(x / y))) for x, y in zip(a, b, strict=True))


def _spread(count: int) -> list[int]:
    """`HELD_OUT` indices spread evenly over `count`."""
    return np.linspace(0, count - 1, HELD_OUT).astype(int).tolist()
