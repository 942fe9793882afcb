"""Search, distillation and judging on a simulated second device: nothing is left behind on the first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_up import Bits
from search_llama import tiny_space, write_model
from second_device import DEVICE, Elsewhere, Second

from hwfit.errors import HwfitError
from hwfit.evaluate.batched import outcomes, row_losses
from hwfit.evaluate.requests import Requests
from hwfit.latency_models.whole import WholeModel
from hwfit.search.budget import Budget
from hwfit.search.distil import DistilSettings, Student, distil
from hwfit.search.forward import CPU
from hwfit.search.joint import Searcher
from hwfit.search.methods import METHODS
from hwfit.search.optimise import SearchSettings
from hwfit.search.sensitivity import Damage
from hwfit.search.study import Study, StudySettings, study_of, training_device
from hwfit.subnet import Subnet
from hwfit.workload import Workload

SETTINGS = SearchSettings(
    weight_steps=2, steps=2, sequences=2, rank=2, checkpoint_every=1, candidates=1, trials=1, judged=2
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def study(model: Path, cache: Path, device: torch.device) -> Study:
    ids = torch.randint(0, 40, (10, 12), generator=torch.Generator().manual_seed(9))
    settings = StudySettings(seq=12, train=6, validation=4, calibration=4)
    return replace(study_of(model, ids, settings, cache, False, device), space=tiny_space("w32", "w8a8", "w4a8"))


def judged(student: Student, device: torch.device) -> tuple[list[float], dict[str, tuple[bool, ...]]]:
    tokens = torch.randint(0, 40, (8, 7), generator=torch.Generator().manual_seed(3))
    eight, two = torch.full((8,), 7), torch.full((8,), 2)
    questions = Requests("acc_norm", tokens.flatten(), eight, two, torch.tensor([4, 4]), torch.tensor([1, 2]), eight)
    return row_losses(student, tokens, device), outcomes(student, {"q": questions}, device)


def run(model: Path, folder: Path, device: torch.device) -> tuple[Damage, dict[str, Subnet], list[float], Student]:
    """Every method on one supernet, then a distillation with the first."""
    s = study(model, folder / "cache", device)
    searcher = Searcher(s, WholeModel(Bits()), Workload(), SETTINGS, folder, progress=False)
    searcher.train_supernet("key")
    whole = searcher.cost(Subnet.whole(s.space.shape, "w8a8", s.space.embed))["decode"]
    budget = Budget((("decode", 0.8 * whole),))
    found = {
        f"{name} {share}": f.subnet
        for name, method in METHODS.items()
        for share, f in method(searcher, name, budget, (1.0, 0.9), "k").items()
    }
    rules = DistilSettings(steps=3, sequences=2, enough=0.0, checkpoint_every=1)
    student = Student(s.ordered, s.config, Subnet.whole(s.space.shape, "w4a8g32"), s.dtype)
    losses = distil(student, s.train, rules, folder / "distil.safetensors", "k")
    return searcher.damage, found, losses, student


@pytest.mark.slow
def test_a_second_device_finds_and_trains_the_same_as_the_cpu(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("hwfit.search.descent.WARM_STEPS", 4)
    plain = torch.optim.AdamW  # the fused one knows no simulated device
    monkeypatch.setattr(torch.optim, "AdamW", lambda params, fused=None, **rules: plain(params, **rules))
    monkeypatch.setattr("hwfit.search.study.fast_dtype", lambda device: torch.float32)
    here = run(model, tmp_path / "here", CPU)
    wanted = judged(here[-1], CPU)
    with Second():
        there = run(model, tmp_path / "there", DEVICE)
        got = judged(there[-1], DEVICE)
        bundle = there[-1].bundle()
        assert all(isinstance(p, Elsewhere) for p in there[-1].parameters())
    for mine, theirs in zip(here[0].table.tensors(), there[0].table.tensors(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-3, rtol=1e-2)  # an activation may round the other way
    assert there[1].keys() == here[1].keys()  # near ties of a random model may be decided either way
    assert there[2] == pytest.approx(here[2], rel=0.05)
    assert len(there[2]) == 3
    assert got[0] == pytest.approx(wanted[0], rel=0.01)
    assert got[1] == wanted[1]
    for tensor in bundle.tensors.values():
        for part in (tensor,) if isinstance(tensor, torch.Tensor) else (tensor.codes, tensor.grid.scales):
            assert not isinstance(part, Elsewhere)


def test_a_forgotten_tensor_would_be_seen():
    with Second(), pytest.raises(RuntimeError, match="two devices"):
        torch.ones(3).to(DEVICE) + torch.ones(3)


def test_training_device_says_what_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert training_device(None) == CPU
    with pytest.raises(HwfitError, match="--train-on cuda: "):
        training_device("cuda")
    with pytest.raises(HwfitError, match="--train-on 'gpu' is unknown"):
        training_device("gpu")
