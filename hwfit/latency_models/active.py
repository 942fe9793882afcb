"""Active sampling: which cell to measure next, by how much it is expected to lower the error where it matters.

A Gaussian process over what a linear's sizes mean on the device (doublings of m, n and k, what bounds it, how its tiles
fill the device) stands for what is not known yet. The next cell is the one whose measurement takes most variance off
the targets, the cells of the search space under its workloads (Cohn, Active learning with statistical models, arXiv
cs/9603104, section 3). That needs no measured time, so an order may be made before anything is measured. Weighing
targets by the errors so far, regime by regime, was tried on published tables and chose no better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from hwfit.kernels.op import Op
from hwfit.latency_models.cells import Array, regime
from hwfit.latency_models.features import roofline
from hwfit.lut_store.facts import Facts
from hwfit.precision import Precision

ROUGH, SMOOTH, NOISE = 0.02, 0.01, 6e-4
"""Prior variances in squared log seconds: of a rough function (Matérn 3/2) over unit length, of a smooth one over four
times as much, and of two measurements of one cell. Rounded from published tables; `benchmarks.active_sampling` judges
them on two devices."""
ROWS, WIDTHS, WAVES = 3.0, 1.5, 2.0
"""What counts as unit length: doublings of m, doublings of n or k, and log share of idle tiles."""
TILES = ((64, 128), (128, 128), (128, 256))
TARGETS = 500
"""Targets a precision that the choice looks at."""


@dataclass(frozen=True)
class Chosen:
    """A cell to measure: its precision and its row among the candidates of that precision."""

    precision: str
    row: int


class _Field:
    """What measuring candidates of one precision would tell about its targets."""

    def __init__(self, precision: str, candidates: Array, targets: Array, facts: Facts, seed: int):
        self.precision, self.facts = Precision.parse(precision), facts
        if len(targets) > TARGETS:
            targets = targets[np.random.default_rng(seed).choice(len(targets), TARGETS, False)]
        rows = regime(targets[:, 0])
        self._at = _inputs(candidates, self.precision, facts)
        self._cross = _kernel(_inputs(targets, self.precision, facts), self._at)  # [targets, candidates]
        self._left = np.full(len(candidates), ROUGH + SMOOTH)  # variance
        self._known = np.empty((0, len(candidates)))  # [measured, candidates]: what each measurement explains
        self._count = 0
        self._open = np.ones(len(candidates), dtype=bool)
        self._weights = 1 / np.bincount(rows, minlength=1)[rows]  # regimes count the same

    def best(self) -> tuple[float, int]:
        """The largest reduction of the targets' mean variance, and the candidate that brings it."""
        if not self._open.any() or not len(self._weights):
            return -1.0, -1
        gain = self._weights @ self._cross**2 / (self._left + NOISE)
        gain[~self._open] = -1
        return float(gain.max()), int(gain.argmax())

    def take(self, row: int) -> None:
        """Count candidate `row` as measured."""
        self._open[row] = False
        if self._count == len(self._known):
            self._known = np.concatenate([self._known, np.empty((max(64, self._count), len(self._at)))])
        known = self._known[: self._count]
        scale = np.sqrt(self._left[row] + NOISE)
        along = (_kernel(self._at[row : row + 1], self._at)[0] - known[:, row] @ known) / scale
        self._cross -= np.outer(self._cross[:, row] / scale, along)
        self._left = np.maximum(self._left - along**2, 0)
        self._known[self._count] = along
        self._count += 1


class Sampler:
    """Chooses among `candidates` for the sake of `targets`, both sizes `[cells, 3]` by precision."""

    def __init__(self, candidates: Mapping[str, Array], targets: Mapping[str, Array], facts: Facts, seed: int = 0):
        none = np.empty((0, 3))
        self._fields = {p: _Field(p, c, targets.get(p, none), facts, seed) for p, c in candidates.items()}

    def take(self, precision: str, row: int) -> None:
        """Count a candidate as measured without choosing it."""
        self._fields[precision].take(row)

    def choose(self, count: int) -> list[Chosen]:
        """The next cells, most useful first; fewer than `count` if no more are left."""
        best = {p: field.best() for p, field in self._fields.items()}
        chosen: list[Chosen] = []
        while best and len(chosen) < count:
            precision = max(best, key=lambda p: best[p][0])
            gain, row = best[precision]
            if gain < 0:
                break
            chosen.append(Chosen(precision, row))
            self._fields[precision].take(row)
            best[precision] = self._fields[precision].best()
        return chosen


def most_telling(left: Sequence[Op], measured: Sequence[Op], facts: Facts) -> list[Op]:
    """The linears of `left` in the order in which measuring them tells most about all of them, given `measured` ones;
    what is no linear comes first."""
    first = [op for op in left if op.kind != "linear"]
    candidates = {p: _of(p, left, measured) for p in dict.fromkeys(op.precision for op in left if op.kind == "linear")}
    sizes = {p: np.array([(op.m, op.n, op.k) for op in ops], dtype=np.float64) for p, ops in candidates.items()}
    sampler = Sampler(sizes, sizes, facts)
    known = set(measured)
    for p, ops in candidates.items():
        for row, op in enumerate(ops):
            if op in known:
                sampler.take(p, row)
    return first + [candidates[one.precision][one.row] for one in sampler.choose(len(left))]


def _of(precision: str, *groups: Sequence[Op]) -> list[Op]:
    """The distinct linears at `precision`."""
    mine = [op for group in groups for op in group if op.kind == "linear" and op.precision == precision]
    return list(dict.fromkeys(mine))


def _kernel(x: Array, y: Array) -> Array:
    """Prior covariance `[rows of x, rows of y]`."""
    apart = cdist(x, y)
    rough = np.sqrt(3) * apart
    return ROUGH * (1 + rough) * np.exp(-rough) + SMOOTH * np.exp(-((apart / 4) ** 2) / 2)


def _inputs(sizes: Array, p: Precision, facts: Facts) -> Array:
    """`[cells, features]` in unit lengths."""
    m, n, k = sizes.T
    memory, compute = roofline(sizes, p, facts)
    waves = [np.ceil(m / bm) * np.ceil(n / bn) / facts.multiprocessors for bm, bn in TILES]
    idle = [np.log(np.ceil(w) / w).clip(0, 2) / WAVES for w in waves]
    bound = np.tanh(np.log(compute / memory) / 2)
    return np.stack([np.log2(m) / ROWS, np.log2(n) / WIDTHS, np.log2(k) / WIDTHS, bound, *idle], axis=1)
