"""Whole searches in spaces with one precision a block, an MLP width a block and an LM head of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from search_llama import CONFIG, random_weights, tiny_space
from test_devices import SETTINGS, Bits

from hwfit.errors import HwfitError
from hwfit.kernels.op import Op
from hwfit.latency_models.choices import outside
from hwfit.latency_models.whole import WholeModel
from hwfit.precision import Precision
from hwfit.search.budget import Budget
from hwfit.search.distil import Student
from hwfit.search.joint import Searcher
from hwfit.search.methods import METHODS, ladder
from hwfit.search.strategies import STRATEGIES
from hwfit.search.study import Study, StudySettings, study_of
from hwfit.space import Space
from hwfit.subnet import Subnet
from hwfit.workload import Workload

NAMES = ("w32", "w8a8g32", "w4a8g32")
HEAD = {"linears": tuple(map(Precision.parse, NAMES[1:])), "lm_head": (Precision.parse("w32"),)}
SPACES = {
    "blocks": replace(tiny_space(*NAMES), precision_per="block", **HEAD),
    "mlps": replace(tiny_space(*NAMES), mlp_per_block=True),
    "both": replace(tiny_space(*NAMES), mlp_per_block=True, precision_per="block"),
}


class WeightBits(Bits):
    """Every op costs the weight bits it reads."""

    def price(self, op: Op) -> float:
        return 1e-9 * (Precision.parse(op.precision).weight_bits * max(op.n, 1) * max(op.k, 1) + 1)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(CONFIG | {"tie_word_embeddings": True}))
    weights = random_weights()
    del weights["lm_head.weight"]  # a tied embedding
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    ids = torch.randint(0, 40, (10, 12), generator=torch.Generator().manual_seed(9))
    return study_of(folder, ids, StudySettings(seq=12, train=6, validation=4, calibration=4), folder / "cache", False)


@pytest.mark.parametrize("name", SPACES)
def test_every_method_stays_inside_the_space_and_the_budget(
    name: str, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("hwfit.search.descent.WARM_STEPS", 4)
    space: Space = SPACES[name]
    searcher = Searcher(
        replace(study, space=space, dtype=torch.float32),
        WholeModel(WeightBits()),
        Workload(),
        SETTINGS,
        tmp_path,
        False,
    )
    searcher.train_supernet("key")
    whole = searcher.cost(Subnet.whole(space.shape, "w8a8g32", space.embed))["decode"]
    budget = Budget((("decode", 0.9 * whole),))
    assert set(METHODS) < set(STRATEGIES)
    for method in STRATEGIES:
        try:
            found_at = ladder(method, searcher, method, budget, (1.0, 0.9), "k")
        except HwfitError:
            assert method == "uniform"  # the whole model at 4 bits takes more where the LM head must keep 32
            continue
        for share, found in found_at.items():
            assert not outside(space, found.subnet), (method, share)
            assert searcher.cost(found.subnet)["decode"] <= share * 0.9 * whole * (1 + 1e-9), (method, share)
    joint = METHODS["joint"](searcher, "again", budget, (1.0,), "k")[1.0]
    student = Student(study.ordered, study.config, joint.subnet, torch.float32)
    assert student.bundle().subnet == joint.subnet
