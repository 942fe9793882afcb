"""Re-measuring against a device that is not what the predictor says, on a ladder of ever larger subnets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from hwfit.search.budget import Budget
from hwfit.search.joint import Found
from hwfit.search.optimise import SearchSettings
from hwfit.search.remeasure import Disagreement, remeasure

LADDER = [round(0.05 * i, 2) for i in range(1, 61)]
"""Predicted milliseconds of the subnets there are; a subnet is stood for by that figure."""


@dataclass
class Ladder:
    """Stands for `Searcher`: the best subnet is the largest that fits."""

    settings = SearchSettings()

    def cost(self, subnet: Any) -> dict[str, float]:
        return {"decode": subnet, "prefill": 10 * subnet}

    def aimed(self, found: Found, slower: dict[str, float]) -> Found:
        limits = {m: limit / slower.get(m, 1.0) for m, limit in found.budget.limits}
        best = max(ms for ms in LADDER if all(self.cost(ms)[m] <= limit for m, limit in limits.items()))
        return replace(found, subnet=cast(Any, best))


def settled(device, rounds: int = 4, start: float = 2.0) -> float:
    budget = Budget((("decode", 2.0),))
    found = {"a": Found("a", budget, cast(Any, None), cast(Any, start), ())}
    calls = iter(range(100))

    def measure(subnets):
        call = next(calls)
        return {n: {p: device(c, call) for p, c in Ladder().cost(s).items()} for n, s in subnets.items()}

    return cast(Any, remeasure(cast(Any, Ladder()), found, measure, rounds, Ladder.aimed)["a"].subnet)


@pytest.mark.parametrize("slower", [1.0, 1.04, 1.2])
def test_ends_within_two_per_cent_of_the_largest_subnet_that_keeps_its_budget_as_measured(slower: float):
    got = settled(lambda predicted, call: slower * predicted)
    assert got * slower <= 1.02 * 2.0
    assert (got + 0.05) * slower > 2.0 or got * slower >= 0.97 * 2.0


def test_what_the_predictor_overestimates_is_spent():
    assert settled(lambda predicted, call: 0.8 * predicted) == pytest.approx(2.0 / 0.8, rel=0.05)


def test_one_slow_minute_shrinks_nothing_for_good():
    assert settled(lambda predicted, call: (1.3 if call == 0 else 1.0) * predicted) >= 0.9 * 2.0


def test_noise_moves_nothing():
    assert settled(lambda predicted, call: (1.02, 0.98)[call % 2] * predicted) == 2.0


def test_what_one_subnet_differs_by_is_told_from_what_all_share():
    seen = Disagreement()
    for _ in range(9):
        for name, factor in {"a": 1.1, "b": 1.1, "c": 1.1, "d": 1.3}.items():
            seen.add(name, {"decode": 1.0}, {"decode": factor})
    assert seen.slower("a")["decode"] == pytest.approx(1.1, rel=0.011)
    assert seen.slower("d")["decode"] == pytest.approx(1.3, rel=0.021)


def test_one_subnet_that_was_faster_than_the_others_may_not_take_more_for_it():
    seen = Disagreement()
    for _ in range(3):
        for name, factor in {"a": 0.97, "b": 0.97, "c": 0.97, "lucky": 0.85}.items():
            seen.add(name, {"decode": 1.0}, {"decode": factor})
    assert seen.slower("lucky")["decode"] == pytest.approx(seen.slower("a")["decode"])
