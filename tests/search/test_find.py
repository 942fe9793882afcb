"""Strategies on a real supernet, small and random: what is found meets the budget and can be picked again."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
import safetensors.torch
import torch
from replay_bench import Prices
from search_llama import CONFIG, random_weights, tiny_space

from hwfit.errors import HwfitError
from hwfit.latency_models.choices import one_hot
from hwfit.latency_models.whole import WholeModel
from hwfit.search.budget import Budget
from hwfit.search.forward import CPU
from hwfit.search.joint import Searcher
from hwfit.search.methods import METHODS
from hwfit.search.optimise import RANKINGS, SearchSettings
from hwfit.search.remeasure import aimed
from hwfit.search.strategies import STRATEGIES
from hwfit.search.strategies.find import find
from hwfit.search.strategies.picks import from_json
from hwfit.search.study import StudySettings, study_of
from hwfit.search.training import Training
from hwfit.subnet import Subnet
from hwfit.workload import Workload

SETTINGS = SearchSettings(
    weight_steps=1, steps=2, sequences=2, rank=2, checkpoint_every=1, candidates=2, trials=2, judged=2
)


@pytest.fixture(scope="module", params=RANKINGS)
def searcher(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Searcher:
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    safetensors.torch.save_file(random_weights(), folder / "model.safetensors")
    ids = torch.randint(0, 40, (8, 12), generator=torch.Generator().manual_seed(9))
    study = study_of(folder, ids, StudySettings(seq=12, train=4, validation=4, calibration=4), folder, False, CPU)
    study = replace(study, space=tiny_space("w32", "w8a8", "w4a8"))
    settings = replace(SETTINGS, rank_by=request.param)
    out = Searcher(study, WholeModel(Prices()), Workload(), settings, tmp_path_factory.mktemp("run"), progress=False)
    out.train_supernet("key")
    return out


@pytest.fixture(autouse=True)
def short_warm_start(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hwfit.search.descent.WARM_STEPS", 10)


def budget(searcher: Searcher, share: float) -> Budget:
    space = searcher.study.space
    costs = searcher.cost(Subnet.whole(space.shape, "w4a8", space.embed))
    return Budget(tuple((metric, share * costs[metric]) for metric in ("decode", "memory")))


def added(searcher: Searcher, subnet: Subnet) -> float:
    """Damages added up as the relaxation does, from the subnet's own one-hots."""
    hot = one_hot(searcher.study.space, subnet, searcher.order)
    return float(searcher.damage.surrogate(hot.map(lambda t: t.float())))


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_every_strategy_finds_a_subnet_within_the_budget(name: str, searcher: Searcher):
    limits = budget(searcher, 1.02)
    found = find(searcher, name, f"subnet {name}", limits, "key", 9)
    costs = searcher.cost(found.subnet)
    assert all(costs[metric] <= limit * (1 + 1e-9) for metric, limit in limits.limits)
    assert found.subnet == found.picked.subnet(searcher.study.space, searcher.order)
    _, *lines = (searcher.folder / f"losses-subnet {name}.jsonl").read_text().splitlines()
    kept = {from_json(raw["picked"], searcher.study.space): raw["loss"] for raw in map(json.loads, lines)}
    assert len(kept) <= 9
    expected = {"losses": searcher.loss, "damages": partial(added, searcher)}[searcher.settings.rank_by](found.subnet)
    assert kept[found.picked] == pytest.approx(expected, rel=1e-4)
    if name != "sequential":  # which tells its first stage's losses too, of architectures beyond the budget
        assert kept[found.picked] == min(kept.values())
    again = aimed(searcher, found, {"decode": 1.0})
    if name in ("uniform", "bits"):  # whole models, the smallest already
        assert again == found
    else:
        assert searcher.cost(again.subnet)["decode"] <= 0.95 * limits.as_dict()["decode"]
    if name in ("sequential", "quantise_first", "uniform"):
        assert len({p for row in again.subnet.precision for p in row} | {again.subnet.lm_head}) == 1


@pytest.mark.parametrize("name", list(METHODS))
def test_methods_give_a_rung_for_every_share_they_can(name: str, searcher: Searcher):
    ladder = METHODS[name](searcher, f"{name}.x", budget(searcher, 1.02), (1.0, 0.97), "key")
    assert 1.0 in ladder
    for share, found in ladder.items():
        assert searcher.cost(found.subnet)["decode"] <= share * budget(searcher, 1.02).as_dict()["decode"] * (1 + 1e-9)
    with pytest.raises(HwfitError):
        METHODS[name](searcher, f"{name}.y", budget(searcher, 1e-3), (1.0,), "key")


def test_what_is_distilled_is_ranked_by_damages_unless_told_otherwise():
    asked = [Training(), Training(distil_steps=0), Training(distil_steps=0, rank_by="damages"), Training(steps=3)]
    found = [t.search_settings() for t in asked]
    assert [s.rank_by for s in found] == ["damages", "losses", "damages", "damages"]
    assert [s.steps for s in found] == [0, SearchSettings().steps, 0, 3]
    assert [bool(s.weight_steps) for s in found] == [False, True, False, True]


def test_a_rate_of_steps_that_are_not_taken_is_refused():
    Training(supernet_lr=1e-3, steps=2).check()
    Training(architecture_lr=0.1, rank_by="losses").check()
    with pytest.raises(HwfitError, match="--supernet-lr and --architecture-lr need steps on the supernet"):
        Training(supernet_lr=1e-3).check()


def test_steps_lead_to_nothing_that_has_less_damage(searcher: Searcher):
    """So that a search that ranks by damages may leave them out; with losses they may find something better."""
    limits = budget(searcher, 0.98)
    stepped = find(searcher, "joint", "stepped", limits, "key")
    settings, searcher.settings = searcher.settings, replace(searcher.settings, steps=0)
    unstepped = find(searcher, "joint", "unstepped", limits, "key")
    searcher.settings = settings
    assert unstepped.log == () != stepped.log
    if settings.rank_by == "damages":
        assert searcher.damage.of(unstepped.picked) == pytest.approx(searcher.damage.of(stepped.picked), abs=1e-6)
