"""Dominated points: exactly those that another beats beyond the intervals, and something always remains."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwfit.search.budget import Budget
from hwfit.search.front import Interval, beats, dominated, paired
from hwfit.search.joint import Found, beaten
from hwfit.search.optimise import RANKINGS, SearchSettings

values, reach = st.integers(1, 8).map(float), st.sampled_from([0.0, 0.4, 2.0])
intervals = st.builds(lambda v, a, b: Interval(v, v - a, v + b), values, reach, reach)
points = st.fixed_dictionaries({"decode": intervals, "loss": intervals})
fronts = st.dictionaries(st.text("abcdef", min_size=1), points, min_size=1, max_size=8)


@given(fronts)
def test_dropped_exactly_where_another_is_better_beyond_the_intervals(points):
    got = dominated(points)
    assert len(got) < len(points)
    for name, p in points.items():
        better = [
            other
            for other, q in points.items()
            if all(q[a].value <= p[a].value for a in p) and any(q[a].high < p[a].low for a in p)
        ]
        assert (name in got) == bool(better)
        if better:
            assert got[name] in better
            assert got[name] not in got or all(b in got for b in better)


@given(fronts)
def test_without_intervals_what_remains_is_the_plain_front(points):
    exact = {n: {a: Interval.around(i.value) for a, i in p.items()} for n, p in points.items()}
    plain = {n: (p["decode"].value, p["loss"].value) for n, p in points.items()}
    left = {
        n for n, (x, y) in plain.items() if not any(u <= x and v <= y and (u, v) != (x, y) for u, v in plain.values())
    }
    assert set(points) - set(dominated(exact)) == left


def test_worse_within_the_intervals_is_kept():
    sharp, blurred = Interval(1.0, 0.99, 1.01), Interval(1.02, 0.98, 1.06)
    assert not beats({"t": sharp, "q": sharp}, {"t": blurred, "q": blurred})
    assert beats({"t": sharp, "q": sharp}, {"t": blurred, "q": Interval(1.2, 1.1, 1.3)})


def test_what_all_series_share_does_not_blur_them():
    rng = random.Random(0)
    texts = [rng.uniform(1, 5) for _ in range(16)]
    got = paired({"a": texts, "b": [t + 0.1 + rng.uniform(-0.01, 0.01) for t in texts]})
    assert got["a"].high < got["b"].low
    assert got["b"].value - got["a"].value == pytest.approx(0.1, abs=0.01)
    assert paired({"a": [1.0]})["a"] == Interval(1.0, 1.0, 1.0)


class Stand:
    """Stands for `Searcher`: a subnet is (decode ms, loss), and so is a pick."""

    def __init__(self, rank_by: str):
        self.settings, self.damage = SearchSettings(rank_by=rank_by), self

    def of(self, picked: Any) -> float:
        return picked[1]

    def cost(self, subnet: Any) -> dict[str, float]:
        return {"decode": subnet[0] / 1e3, "memory": subnet[0] * 1e6}

    def losses(self, subnet: Any) -> list[float]:
        return [subnet[1] + text for text in (0.0, 1.0, 3.0)]


@pytest.mark.parametrize("rank_by", RANKINGS)
def test_looser_budgets_that_bought_nothing_are_not_worth_distilling(rank_by: str):
    subnets = {"1": (4.0, 2.0), "2": (5.0, 1.5), "3": (6.0, 1.8), "4": (5.0, 1.5), "5": (8.0, 1.0), "6": (8.1, 1.01)}
    budget = Budget((("decode", 1.0),))
    found = {n: Found(n, budget, cast(Any, s), cast(Any, s), ()) for n, s in subnets.items()}
    assert beaten(cast(Any, Stand(rank_by)), found) == {"3": "2", "4": "2", "6": "5"}
