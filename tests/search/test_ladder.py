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
        assert rung.predicted / limit <= rung.share * (1 + 1e-9)
        assert rung.share > 1.05 or rung.predicted / limit >= 0.985 * rung.share
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

    rung = settled({"a": rungs}, "decode", limit, measure, rounds=4, noise=0.0)["a"]
    assert 0.98 <= slower * searcher.cost(rung.subnet)["decode"] / limit <= 1 + 1e-9
    assert calls <= 3


def test_what_all_share_is_believed_a_slow_one_too_but_a_lucky_one_not():
    rungs = [Rung(s, cast(Any, s), s, 0.0) for s in (1.2, 1.15, 1.1, 1.05, 1.0, 0.95)]
    pace = {"a": 0.9, "b": 0.9, "c": 0.9, "slow": 1.0, "lucky": 0.8}

    def measure(subnets):
        return {n: {"decode": {"p10": pace[n] * s}} for n, s in subnets.items()}

    found = settled(dict.fromkeys(pace, rungs), "decode", 1.0, measure, rounds=4)
    shares = {name: rung.share for name, rung in found.items()}
    assert shares == {"a": 1.1, "b": 1.1, "c": 1.1, "slow": 1.0, "lucky": 1.1}


def test_where_nothing_holds_the_smallest_is_told():
    rungs = [Rung(s, cast(Any, s), s, 0.0) for s in (1.0, 0.9)]
    slow = lambda subnets: {n: {"decode": {"p10": 2 * s}} for n, s in subnets.items()}  # noqa: E731
    assert settled({"a": rungs}, "decode", 1.0, slow, 3)["a"].share == 0.9
