"""Active sampling against the textbook: the discrepancy by whole matrices, and greedy choices found by trying all."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from replayed import FACTS, GPU, make_table, seconds

from hwfit.kernels.op import Op, linear
from hwfit.latency_models import active
from hwfit.latency_models.active import Sampler, most_telling
from hwfit.latency_models.lookup import Lookup
from hwfit.lut_store.table import Table
from hwfit.precision import Precision
from hwfit.profiler.plan import Stage, plan
from hwfit.profiler.protocol import Rules
from hwfit.profiler.replay import Replay
from hwfit.profiler.run import profile
from hwfit.space import Space
from hwfit.subnet import ModelShape
from hwfit.workload import Workload

SHAPE = ModelShape(hidden=4096, heads=32, kv_heads=8, head_size=128, mlp=14336, blocks=32, vocab=32768)
HIDDEN, MLP = tuple(range(4096, 2047, -512)), tuple(range(14336, 6143, -2048))
SPACE = replace(Space.default(SHAPE, ("w16a16", "w8a8"), "w16a16"), hidden=HIDDEN, mlp=MLP)
WORKLOAD = Workload(prompt=128)
RULES = Rules(seconds=0.01, max_rounds=8, min_rounds=8, batch=16)
GRID = np.array([(m, n, k) for m in (1, 128) for n in (512, 1024, 4096) for k in (512, 2048)], dtype=np.float64)


def discrepancy(chosen: list[int], targets: np.ndarray) -> float:
    """Squared maximum mean discrepancy between `targets` and the `chosen` rows of GRID, by whole matrices."""
    p = Precision.parse("w16a16")
    x, y = active._inputs(targets, p, FACTS), active._inputs(GRID[chosen], p, FACTS)
    return float(active._kernel(x, x).mean() - 2 * active._kernel(x, y).mean() + active._kernel(y, y).mean())


def test_each_choice_is_the_best_of_all():
    sampler = Sampler({"w16a16": GRID}, {"w16a16": GRID[::2]}, FACTS)
    chosen: list[int] = []
    for _ in range(len(GRID)):
        left = {row: discrepancy([*chosen, row], GRID[::2]) for row in range(len(GRID)) if row not in chosen}
        row = sampler.choose(1)[0].row
        assert left[row] == pytest.approx(min(left.values()), abs=1e-12)
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


class Anything:
    """A backend that runs all there is."""

    def why_not(self, op: Op) -> None:
        return None


class Enough(Exception):
    """As many cells as the test pays for have been measured."""


def planned(stage: Stage) -> list[Op]:
    """Linears of a plan."""
    cells = plan(SPACE, WORKLOAD, Anything())  # type: ignore[arg-type]
    return [cell.op for cell in cells if cell.stage == stage and cell.op.kind == "linear"]


def lookup_error(path: Path, exact: list[Op]) -> float:
    """Mean error over the whole plan once its coarse cells and `exact` are measured."""
    lookup = Lookup.fit(make_table(path, [*planned("coarse"), *exact]).read(), GPU)
    every = planned("coarse") + planned("exact")
    return float(np.mean([abs(lookup.price(op) / seconds(op) - 1) for op in every]))


def test_the_most_telling_cells_teach_more_than_the_largest_and_than_random_ones(tmp_path: Path):
    exact = planned("exact")
    telling = most_telling(exact, planned("coarse"), FACTS)
    for count in (120, 160, 200):
        chosen = lookup_error(tmp_path / f"chosen {count}", telling[:count])
        largest = lookup_error(tmp_path / f"largest {count}", exact[:count])
        drawn = [random.Random(seed).sample(exact, count) for seed in range(3)]
        blind = [lookup_error(tmp_path / f"random {count} {seed}", ops) for seed, ops in enumerate(drawn)]
        assert chosen < 0.85 * largest
        assert chosen < 0.95 * np.mean(blind)


def test_a_replayed_profile_measures_the_most_telling_cells_first(tmp_path: Path):
    exact = planned("exact")
    replay = Replay(make_table(tmp_path / "source", [*planned("coarse"), *exact]), GPU)
    table = Table(tmp_path / "own")
    options = {"progress": False, "rules": RULES, "backend": replay, "identity": replay.identity}

    def measured() -> set[Op]:
        return {op for op, status in table.known(replay.identity.key).items() if status == "OK"}

    def stop() -> None:
        if len(measured()) >= len(planned("coarse")) + 16:
            raise Enough

    with pytest.raises(Enough):
        profile(SPACE, WORKLOAD, "replay", table, order=most_telling, between=stop, **options)
    coarse = set(planned("coarse"))
    assert measured() - coarse == set(most_telling(exact, list(coarse), FACTS)[:16])
    assert profile(SPACE, WORKLOAD, "replay", table, coarse=True, **options).measured == 0
