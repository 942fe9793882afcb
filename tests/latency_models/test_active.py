"""Active sampling against the textbook: exact posterior variances, and greedy choices found by trying all."""

from __future__ import annotations

import numpy as np
import pytest

from hwfit.kernels.op import Op, linear
from hwfit.latency_models import active
from hwfit.latency_models.active import Sampler, most_telling
from hwfit.lut_store.facts import Facts
from hwfit.precision import Precision

FACTS = Facts(bandwidth=1.5e12, flops16=3e14, flops8=6e14, multiprocessors=108)
GRID = np.array([(m, n, k) for m in (1, 128) for n in (512, 1024, 4096) for k in (512, 2048)], dtype=np.float64)


def mean_variance(chosen: list[int], targets: np.ndarray) -> float:
    """Of the targets once `chosen` rows of GRID are measured, by a plain matrix inverse."""
    p = Precision.parse("w16a16")
    x, y = active._inputs(targets, p, FACTS), active._inputs(GRID[chosen], p, FACTS)
    prior = active.ROUGH + active.SMOOTH
    if not chosen:
        return prior
    cross, own = active._kernel(x, y), active._kernel(y, y) + active.NOISE * np.eye(len(chosen))
    return float(np.mean(prior - np.einsum("ij,jk,ik->i", cross, np.linalg.inv(own), cross)))


def test_each_choice_is_the_best_of_all():
    sampler = Sampler({"w16a16": GRID}, {"w16a16": GRID}, FACTS)
    chosen: list[int] = []
    for _ in range(len(GRID)):
        variances = [mean_variance([*chosen, row], GRID) if row not in chosen else 1.0 for row in range(len(GRID))]
        row = sampler.choose(1)[0].row
        assert variances[row] == pytest.approx(min(variances), rel=1e-9)
        chosen.append(row)
    assert sorted(chosen) == list(range(len(GRID)))
    assert not sampler.choose(1)


def test_prefers_what_lies_near_the_targets():
    near = GRID[(GRID[:, 0] == 1) & (GRID[:, 1] == 4096)]
    chosen = Sampler({"w16a16": GRID}, {"w16a16": near}, FACTS).choose(2)
    assert {tuple(GRID[one.row]) for one in chosen} == {tuple(row) for row in near}


def test_measured_cells_are_not_chosen_and_others_come_first():
    ops = [linear(1, n, 512, p) for n in (512, 576, 8192) for p in ("w8a8", "w4a8g32")]
    other = Op("norm", 1, 0, 512)
    order = most_telling([*ops[2:], other], ops[:2], FACTS)
    assert order[0] == other
    assert sorted(map(str, order[1:])) == sorted(map(str, ops[2:]))
    assert {op.n for op in order[1:3]} == {8192}  # 576 is known from 512
