"""A whole search of the tiny Llama under several limits at once, and aiming where the space has too little."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from made_up import Reading, made_up_device
from search_llama import CONFIG, random_weights, tiny_space

from hwfit.errors import HwfitError
from hwfit.latency_models.whole import WholeModel
from hwfit.search.budget import Budget
from hwfit.search.costed import Costed
from hwfit.search.costs import ExpectedCosts
from hwfit.search.discretise import Picked, with_precision
from hwfit.search.feasible import Nearby
from hwfit.search.forward import CPU
from hwfit.search.joint import WIDTHS_ONLY, Found, Searcher
from hwfit.search.optimise import SearchSettings
from hwfit.search.remeasure import aimed
from hwfit.search.run import search_front
from hwfit.search.strategies.find import find
from hwfit.search.study import Study, StudySettings, study_of
from hwfit.subnet import Subnet
from hwfit.workload import Workload

SETTINGS = SearchSettings(
    weight_steps=1, steps=2, sequences=2, rank=2, candidates=1, trials=1, judged=2, remeasure_rounds=2
)
WORKLOAD = Workload(prompt=16, context=16)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    safetensors.torch.save_file(random_weights(), folder / "model.safetensors")
    ids = torch.randint(0, 40, (10, 12), generator=torch.Generator().manual_seed(9))
    settings = StudySettings(seq=12, train=6, validation=4, calibration=4)
    whole = study_of(folder, ids, settings, folder / "cache", False, CPU)
    return replace(whole, space=tiny_space("w32", "w8a8g32", "w4a8g32"))


@pytest.fixture
def searcher(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Searcher:
    monkeypatch.setattr("hwfit.search.descent.WARM_STEPS", 10)
    return Searcher(study, made_up_device(3), WORKLOAD, SETTINGS, tmp_path, progress=False)


def middle(searcher: Searcher) -> dict[str, float]:
    """What a subnet in the middle of the space takes."""
    space = searcher.study.space
    kept = tuple(sorted(searcher.order[:2]))
    rows = ((space.precisions[1],) * 7,) * 2
    return searcher.cost(space.subnet(64, 2, 16, 64, kept, rows, space.precisions[2]))


def test_a_search_keeps_every_limit_at_once_and_its_log_prices_all(searcher: Searcher):
    costs = middle(searcher)
    budget = Budget(tuple(sorted((metric, 1.02 * cost) for metric, cost in costs.items())))
    found = find(searcher, "joint", "a", budget, "k")
    assert budget.within(searcher.cost(found.subnet), 1e-9)
    assert set(found.log[-1].expected) == set(costs)
    assert len(found.log[-1].multipliers) == len(costs)


def test_limits_on_the_weights_from_both_sides_move_the_choice(searcher: Searcher):
    decode = middle(searcher)["decode"]
    free = find(searcher, "joint", "b", Budget((("decode", decode),)), "k").subnet
    fewer = find(searcher, "joint", "c", Budget((("decode", decode), ("params", 0.8 * free.params))), "k").subnet
    assert fewer.params <= 0.8 * free.params
    priced = ExpectedCosts(searcher.study.space, searcher.order, searcher.latency, WORKLOAD)
    limits = {"decode": decode, "1/params": 1e-5}
    most = Nearby(Costed.of(priced, limits)).lowest(limits, ["1/params"])
    assert most is not None
    floor = Budget((("1/params", 1.001 * most["1/params"]), ("decode", decode)))
    found = find(searcher, "joint", "d", floor, "k").subnet
    assert found.params >= max(free.params, fewer.params, 0.99 / most["1/params"])
    assert searcher.cost(found)["decode"] <= decode


def test_too_little_room_to_aim_below_the_budget_uses_what_there_is(searcher: Searcher):
    """A budget that only the smallest subnet keeps: 95 % of it is out of reach."""
    searcher.latency = WholeModel(Reading(0))
    space, kept = searcher.study.space, searcher.order[:1]
    smallest = space.subnet(32, 2, 8, 32, kept, ((space.precisions[2],) * 7,), space.precisions[2])
    least = searcher.cost(smallest)["prefill"]
    start = Picked(0, 0, 0, 0, 0, ((0,) * 7,) * 3, 0)
    found = Found("d", Budget((("prefill", 1.001 * least),)), start, start.subnet(space, searcher.order), ())
    assert aimed(searcher, found, {}).subnet == smallest
    over = searcher.cost(aimed(searcher, found, {"prefill": 1.15}).subnet)["prefill"] * 1.15
    assert 1.15 * least <= over <= 1.2 * 1.001 * least  # 1.15 times the budget is the least there is
    assert aimed(searcher, found, {"prefill": 2.0}) == found  # nothing is near it
    roomy = replace(found, budget=Budget((("prefill", 1.5 * least),)))
    spent = searcher.cost(aimed(searcher, roomy, {}).subnet)["prefill"] / (1.5 * least)
    assert 0.8 <= spent <= 0.95
    exact = replace(found, budget=Budget((("disk", searcher.cost(smallest)["disk"]),)))
    assert aimed(searcher, exact, {}).subnet == smallest  # what nothing can move is used up
    bits = replace(exact, picked=with_precision(start, 2), freedom=WIDTHS_ONLY)
    assert aimed(searcher, bits, {}).subnet == smallest


def test_jointly_infeasible_budgets_stop_before_any_training(study: Study, tmp_path: Path):
    whole = Subnet.whole(study.space.shape, study.space.precisions[0], study.space.embed)
    budget = Budget((("1/params", 1 / whole.params), ("disk", 0.15 * whole.weight_bytes)))
    alone = Budget((("disk", 0.15 * whole.weight_bytes),))
    rules = ({"a": alone, "b": budget}, lambda subnets: {}, SETTINGS, tmp_path)
    with pytest.raises(HwfitError, match="no subnet of this space keeps all of these at once; closest: ") as error:
        search_front(study, made_up_device(3), WORKLOAD, *rules, progress=False)
    assert len(error.value.problems) == 1
    assert not list(tmp_path.iterdir())


def test_energy_without_a_counter_stops_before_any_training(study: Study, tmp_path: Path):
    silent = replace(made_up_device(3), joules=None)
    rules = ({"a": Budget((("power", 1.0),))}, lambda subnets: {}, SETTINGS, tmp_path)
    with pytest.raises(HwfitError, match="has no energy"):
        search_front(study, silent, WORKLOAD, *rules, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_front_marks_what_another_of_it_beats(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two budgets so loose that both are met by the whole model: one of them need not be distilled."""
    monkeypatch.setattr("hwfit.search.descent.WARM_STEPS", 4)
    device = made_up_device(3)
    budgets = {"subnet": Budget((("disk", 1e9),)), "subnet x2": Budget((("disk", 2e9),))}

    def measure(subnets):
        return {name: {"decode": 1.0, "prefill": 1.0} for name in subnets}

    rules = (budgets, measure, SETTINGS, tmp_path)
    first = search_front(study, device, WORKLOAD, *rules, progress=False)
    assert [c.beaten_by for c in first.values()] == [None, "subnet"]
    assert search_front(study, device, WORKLOAD, *rules, progress=False) == first
