"""Ladders on a replayed problem, and the rung that a device a few per cent off settles on."""

from __future__ import annotations

from typing import Any, cast

import pytest
from replay_bench import ReplaySearcher, twelve_blocks

from benchmarks.joint_vs_sequential.rungs import Rung, settled
from benchmarks.joint_vs_sequential.search import FINE
from hwfit.search.budget import Budget
from hwfit.search.methods import METHODS
from hwfit.search.strategies.picks import whole

LIMIT_SHARE = 0.8


@pytest.fixture(autouse=True)
def short_warm_start(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hwfit.search.descent.WARM_STEPS", 20)


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> ReplaySearcher:
    return ReplaySearcher(twelve_blocks(), tmp_path_factory.mktemp("ladder"))


@pytest.fixture(scope="module")
def budget(searcher: ReplaySearcher) -> Budget:
    return Budget((("decode", LIMIT_SHARE * searcher.of.costs(whole(searcher.of.space, 2))["decode"]),))


@pytest.fixture(scope="module")
def rungs(searcher: ReplaySearcher, budget: Budget) -> list[Rung]:
    found = METHODS["joint"](cast(Any, searcher), "joint.x", budget, (1.0, 0.9), "key", FINE)
    losses = {share: searcher.of.loss(f.picked) for share, f in found.items()}
    return [Rung(s, f.subnet, searcher.cost(f.subnet)["decode"], losses[s]) for s, f in found.items()]


def test_fine_rungs_use_their_shares_and_larger_ones_lose_no_more(rungs: list[Rung], budget: Budget):
    limit = budget.as_dict()["decode"]
    assert [rung.share for rung in rungs] == sorted({1.0, 0.9, *FINE}, reverse=True)
    for rung in rungs:
        assert 0.985 * rung.share <= rung.predicted / limit <= rung.share * (1 + 1e-9)
    fine = [rung.loss for rung in rungs if rung.share not in (1.0, 0.9)]
    assert fine == sorted(fine)


@pytest.mark.parametrize("slower", [0.96, 0.99, 1.0, 1.01, 1.03, 1.06])
def test_a_device_a_few_per_cent_off_ends_within_two_per_cent_below_the_budget(
    slower: float, rungs: list[Rung], searcher: ReplaySearcher, budget: Budget
):
    limit, calls = budget.as_dict()["decode"], 0

    def measure(subnets):
        nonlocal calls
        calls += 1
        return {n: {"decode": {"p10": slower * searcher.cost(s)["decode"]}} for n, s in subnets.items()}

    rung, times = settled({"a": rungs}, "decode", limit, measure, rounds=4, tolerance=0.0)["a"]
    assert 0.98 <= times["decode"]["p10"] / limit <= 1 + 1e-9
    assert times["decode"]["p10"] == slower * searcher.cost(rung.subnet)["decode"]
    assert calls <= 3


def test_what_did_not_hold_is_not_tried_again_and_what_held_is_kept():
    rungs = [Rung(s, cast(Any, s), s, 0.0) for s in (1.04, 1.02, 1.0, 0.98, 0.96)]
    asked: list[float] = []

    def measure(subnets):
        asked.append(subnets["a"])
        noise = {1.0: 0.95, 1.04: 1.02}.get(subnets["a"], 1.0)  # one good minute sends it where nothing holds
        return {"a": {"decode": {"p10": noise * subnets["a"]}}}

    rung, _ = settled({"a": rungs}, "decode", 1.0, measure, rounds=4, tolerance=0.01)["a"]
    assert asked[:2] == [1.0, 1.04]
    assert asked.count(1.04) == 1
    assert rung.share == 1.0


def test_where_nothing_holds_the_smallest_is_told():
    rungs = [Rung(s, cast(Any, s), s, 0.0) for s in (1.0, 0.9)]
    slow = lambda subnets: {n: {"decode": {"p10": 2 * s}} for n, s in subnets.items()}  # noqa: E731
    assert settled({"a": rungs}, "decode", 1.0, slow, 3, 0.01)["a"][0].share == 0.9
