"""Contenders and their judge, on kernels whose true times are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gpu_table import DEVICE, FACTS, true_seconds, write_table
from hypothesis import given, settings
from hypothesis import strategies as st

from hwfit.errors import HwfitError
from hwfit.kernels.op import linear
from hwfit.latency_models.cells import REGIMES, Cells, regime
from hwfit.latency_models.conformal import conformal
from hwfit.latency_models.contenders import CONTENDERS
from hwfit.latency_models.contest import HeldOut, folds, hold_out, winner


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Cells:
    table = write_table(tmp_path_factory.mktemp("t"), noise=0.02)
    return Cells.of(table.read(DEVICE), "w4a16", FACTS)


# the largest median error each may have between the grid's points; the true times jump with the waves of tiles
CONTRACT = {"nearest": 0.35, "interpolation": 0.25, "roofline": 0.8, "random forest": 0.35}


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_contender_predicts_unseen_shapes(name: str, cells: Cells) -> None:
    sizes = np.array([[m, n, k] for m in (1, 8, 256) for n in (768, 2560, 5120) for k in (768, 2560, 5120)], float)
    truth = np.array([true_seconds(linear(*map(int, size), "w4a16")) for size in sizes])
    predicted = CONTENDERS[name](cells, 0)(sizes)
    assert predicted.shape == (len(sizes),)
    assert np.isfinite(predicted).all()
    assert (predicted > 0).all()
    assert np.median(np.abs(predicted / truth - 1)) < CONTRACT.get(name, 0.15)


def test_shapes_are_held_out_whole(cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    fold, seen = folds(cells, seed=1), []

    def contender(train: Cells, seed: int):
        shapes = {tuple(s) for s in train.sizes[:, 1:]}
        seen.append(shapes)
        return lambda sizes: np.full(len(sizes), float(any(tuple(s) in shapes for s in sizes[:, 1:])) + 1.0)

    monkeypatch.setitem(CONTENDERS, "any", contender)
    held = hold_out("any", cells, seed=1)
    assert len(seen) == len(np.unique(fold)) == 5
    assert (held.predicted == 1.0).all(), "no shape of a fold is among those fitted to"
    for shape in np.unique(cells.shapes):
        assert len(np.unique(fold[cells.shapes == shape])) == 1
    assert len(np.unique(folds(cells, 1, grouped=False)[cells.shapes == 0])) > 1


@pytest.mark.parametrize("noise", [0.02, 0.2])
def test_intervals_cover_nine_in_ten(cells: Cells, noise: float) -> None:
    generator = np.random.default_rng(0)
    predicted = cells.seconds * np.exp(noise * generator.standard_normal(len(cells)))
    held = HeldOut("known noise", cells, predicted, folds(cells, 0))
    cover = held.coverage()
    assert set(cover) == {"all", *REGIMES}
    assert all(0.86 < share < 0.94 for share in cover.values())
    assert held.width() == pytest.approx(2 * 1.645 * noise, rel=0.15), "of a normal error"
    assert all(half == pytest.approx(1.645 * noise, rel=0.2) for half in held.quantiles().values())


@settings(deadline=None)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=60), st.floats(0.05, 0.95))
def test_conformal_rank_against_its_definition(errors: list[float], cover: float) -> None:
    bound = conformal(np.array(errors), cover)
    assert bound in errors
    inside = sum(e <= bound for e in errors)
    assert inside >= min(len(errors), np.ceil(cover * (len(errors) + 1)))


def test_the_least_median_error_wins(cells: Cells) -> None:
    good, bad = (HeldOut(n, cells, cells.seconds * f, folds(cells, 0)) for n, f in (("good", 1.01), ("bad", 1.3)))
    assert winner([bad, good]).contender == "good"
    assert good.within(0.1) == 1.0
    assert bad.within(0.1) == 0.0


def test_regimes_split_where_they_say() -> None:
    assert [REGIMES[i] for i in regime(np.array([1.0, 2.0, 32.0, 33.0, 4096.0]))] == [
        "m1",
        "m2_32",
        "m2_32",
        "m33",
        "m33",
    ]


def test_a_precision_that_was_not_measured_is_named(tmp_path: Path) -> None:
    with pytest.raises(HwfitError, match="no measured linear at w8a8; measured: w16a16, w4a16"):
        Cells.of(write_table(tmp_path).read(DEVICE), "w8a8", FACTS)
