"""Active sampling: which cells to measure next, so that what is measured stands for the search space at hand.

Kernel herding (Chen, Welling and Smola, arXiv 1203.3472): the next cell is the one that brings the measured cells
closest to the targets, the cells of the search space under its workloads, in maximum mean discrepancy. The kernel says
what a linear's sizes mean on the device (doublings of m, n and k, what bounds it, how its tiles fill the device), and
the discrepancy bounds the error of every average over the targets of a function that the kernel knows. That needs no
measured time, so an order may be made before anything is measured. Taking what lowers most variance of a Gaussian
process (Cohn, arXiv cs/9603104) was tried on published tables: it prefers borders and was worse than random cells of
the space; so was weighing targets by the errors so far.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from hwfit.kernels.op import Op
from hwfit.latency_models.cells import Array
from hwfit.latency_models.features import roofline
from hwfit.lut_store.facts import Facts
from hwfit.precision import Precision

ROUGH, SMOOTH = 2 / 3, 1 / 3
"""Shares of a rough function (Matérn 3/2) over unit length and of a smooth one over four times as much. Rounded from
published tables; `benchmarks.active_sampling` judges them on two devices."""
ROWS, WIDTHS, WAVES = 3.0, 1.5, 2.0
"""What counts as unit length: doublings of m, doublings of n or k, and log share of idle tiles."""
TILES = ((64, 128), (128, 128), (128, 256))
TARGETS = 2000
"""Targets a precision that the choice looks at."""


@dataclass(frozen=True)
class Chosen:
    """A cell to measure: its precision and its row among the candidates of that precision."""

    precision: str
    row: int


class _Field:
    """How well the measured candidates of one precision stand for its targets."""

    def __init__(self, precision: str, candidates: Array, targets: Array, facts: Facts, seed: int):
        p = Precision.parse(precision)
        if len(targets) > TARGETS:
            targets = targets[np.random.default_rng(seed).choice(len(targets), TARGETS, False)]
        self._at = _inputs(candidates, p, facts)
        self._wanted = _kernel(_inputs(targets, p, facts), self._at).sum(axis=0) / max(1, len(targets))  # [candidates]
        self._had = np.zeros(len(candidates))  # sum of the kernel over what is measured
        self._open = np.ones(len(candidates), dtype=bool)
        self._count, self._targets = 0, len(targets)

    @property
    def measured(self) -> float:
        """Cells a target; infinite where nothing is left that could be measured."""
        return self._count / self._targets if self._targets and self._open.any() else math.inf

    def best(self) -> int:
        """The candidate that leaves the least discrepancy."""
        gain = self._wanted - self._had / (self._count + 1)
        return int(np.where(self._open, gain, -np.inf).argmax())

    def take(self, row: int) -> None:
        """Count candidate `row` as measured."""
        self._open[row] = False
        self._had += _kernel(self._at[row : row + 1], self._at)[0]
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
        """The next cells, most useful first, from the precision with the fewest for its targets; fewer than `count` if
        no more are left."""
        chosen: list[Chosen] = []
        while self._fields and len(chosen) < count:
            precision = min(self._fields, key=lambda p: self._fields[p].measured)
            field = self._fields[precision]
            if math.isinf(field.measured):
                break
            row = field.best()
            chosen.append(Chosen(precision, row))
            field.take(row)
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
    """`[rows of x, rows of y]`, 1 for equal ones."""
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
