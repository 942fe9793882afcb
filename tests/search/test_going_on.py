"""What is kept when a stage cannot go on: NaN, another learning rate, logs; and what low-rank pairs come to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from search_llama import CONFIG, SHAPE, random_weights, tiny_space

from hwfit.deploy.bundle import dense_weights
from hwfit.errors import HwfitError
from hwfit.precision import Precision
from hwfit.search import checkpoint
from hwfit.search.checkpoint import Schedule
from hwfit.search.distil import DistilSettings, Lora, Student, distil
from hwfit.search.hidden import HiddenStates
from hwfit.search.importance import measure_importance, order_model
from hwfit.search.optimise import SearchSettings, train_shared
from hwfit.search.relax import Architecture
from hwfit.search.steps_log import StepsLog, read_steps
from hwfit.search.supernet import Supernet
from hwfit.search.teacher import distillation_loss, make_targets
from hwfit.search.training import Training

IDS = torch.randint(0, 40, (6, 12), generator=torch.Generator().manual_seed(9))
SETTINGS = DistilSettings(steps=6, sequences=2, lr=1e-3, checkpoint_every=2, enough=0.0)


def ordered():
    weights = random_weights()
    return order_model(weights, SHAPE, measure_importance(weights, CONFIG, IDS, progress=False))


def subnet():
    row = tuple(map(Precision.parse, ("w8a8g32", "w4a8g32", "w32", "w8a8g32", "w4a8g32", "w8a8g32", "w4a8g32")))
    return tiny_space().subnet(32, 4, 8, 64, (0, 2), (row, row), Precision.parse("w8a8g32"))


def test_a_loss_that_stays_no_number_stops_and_keeps_the_last_good_state(tmp_path: Path):
    o = ordered()
    train = make_targets(o.weights, CONFIG, IDS, progress=False)
    path = tmp_path / "checkpoints" / "distil-a.safetensors"

    def advance(steps: float = 1.0, note: str | None = None) -> None:
        nonlocal done
        done += 1
        if done >= 5:
            with torch.no_grad():
                student.weight("model.norm.weight").fill_(float("inf"))

    done = 0
    student = Student(o, CONFIG, subnet(), torch.float32)
    with pytest.raises(HwfitError, match=r"loss is nan at distillation step 0; stopped; .* is kept in .*lower --lr"):
        distil(student, train, SETTINGS, path, "k", advance)
    saved = checkpoint.load(path, "k")
    assert saved
    assert len(saved[1]["losses"]) == 4
    assert all(t.isfinite().all() for t in saved[0].values())
    again = Student(o, CONFIG, subnet(), torch.float32)
    losses = distil(again, train, replace(SETTINGS, lr=1e-4), path, "k")
    assert losses[:4] == saved[1]["losses"]
    assert len(losses) == 6
    assert [row["step"] for row in read_steps(tmp_path / "logs" / "distil-a.csv")] == [0, 1, 2, 3, 4, 5]


def test_a_supernet_goes_on_with_another_rate_unless_it_was_done(tmp_path: Path):
    o, space = ordered(), tiny_space("w32", "w8a8")
    train = make_targets(o.weights, CONFIG, IDS, progress=False)
    path = tmp_path / "checkpoints" / "supernet.safetensors"
    settings = SearchSettings(weight_steps=3, sequences=2, rank=2, checkpoint_every=1)

    class Killed(Exception):
        pass

    def trained(settings: SearchSettings, killed_at: int = 99) -> list[float]:
        starts: list[float] = []

        def advance(steps: float = 1.0, note: str | None = None) -> None:
            starts.append(steps)
            if len(starts) == killed_at:
                raise Killed

        net = Supernet(o.weights, CONFIG, space, o.block_order, None, settings.rank)
        train_shared(net, Architecture(space), train, settings, path, "k", advance)
        return starts

    with pytest.raises(Killed):
        trained(settings, killed_at=2)
    assert trained(replace(settings, lr_weights=1e-4)) == [2, 1.0]  # goes on after two steps
    assert trained(replace(settings, lr_weights=1e-4)) == [3]  # it was done
    assert trained(settings) == [1.0, 1.0, 1.0]  # done with another rate: begins again


def test_low_rank_pairs_learn_and_are_folded_without_loss():
    o = ordered()
    train = make_targets(o.weights, CONFIG, IDS, progress=False)
    lora = Lora(rank=4, alpha=8.0, dropout=0.05)
    student = Student(o, CONFIG, subnet(), torch.float32, lora)
    frozen = {n: p.clone() for n, p in student.named_parameters() if not p.requires_grad}
    with torch.no_grad():
        before = float(distillation_loss(student(IDS), train))
    distil(student, train, replace(SETTINGS, steps=40, sequences=6, lr=1e-2, method="lora", lora=lora))
    with torch.no_grad():
        after = float(distillation_loss(student(IDS), train))
    assert after < 0.8 * before
    assert all(torch.equal(p, frozen[n]) for n, p in student.named_parameters() if n in frozen)
    folded = Student(o, CONFIG, subnet(), torch.float32)  # the deployed weights in a student without pairs
    dense = dense_weights(student.bundle())
    folded.load_state_dict({n: dense[n.rpartition(".")[2].replace("/", ".")] for n in folded.state_dict()})
    with torch.no_grad():
        assert float(distillation_loss(folded(IDS), train)) == pytest.approx(after, abs=0.02 * (before - after))


def test_dropout_changes_with_the_step_and_comes_back_when_it_is_resumed():
    student = Student(ordered(), CONFIG, subnet(), torch.float32, Lora(rank=2, dropout=0.5))
    name = "model.layers.0.mlp.up_proj.weight"
    with torch.no_grad():
        student._parts()[0].up[name.replace(".", "/")].normal_()
    seen = []
    for step in (3, 4, 3, None):
        student.drop(step)
        seen.append(student.weight(name).detach().clone())
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[3])


def test_hidden_states_are_zero_apart_for_the_original_itself_and_lower_the_distance():
    o = ordered()
    whole = tiny_space().subnet(64, 4, 16, 96, (0, 1, 2), ((Precision.parse("w32"),) * 7,) * 3, Precision.parse("w32"))
    hidden = HiddenStates(o, CONFIG, whole, torch.float32)
    Student(o, CONFIG, whole, torch.float32)(IDS, hidden.watch(IDS))
    assert float(hidden.distance().detach()) < 1e-8
    train = make_targets(o.weights, CONFIG, IDS, progress=False)
    apart = {}
    for weight in (0.0, 1.0):
        student, hidden = Student(o, CONFIG, subnet(), torch.float32), HiddenStates(o, CONFIG, subnet(), torch.float32)
        rules = replace(SETTINGS, steps=20, sequences=6, lr=3e-3, hidden=weight)
        distil(student, train, rules, hidden=hidden if weight else None)
        with torch.no_grad():
            student(IDS, hidden.watch(IDS))
            apart[weight] = float(hidden.distance())
    assert apart[1.0] < 0.9 * apart[0.0]


def test_a_resumed_log_drops_what_was_not_saved(tmp_path: Path):
    path = tmp_path / "checkpoints" / "x.safetensors"
    with StepsLog(path, 0) as log:
        for step in range(4):
            log.row(step, 10, {"loss": step / 2})
    file = tmp_path / "logs" / "x.csv"
    file.write_text(file.read_text() + "4,0.")  # killed while it wrote
    with StepsLog(path, 2) as log:
        log.row(2, 10, {"loss": 9.0})
    rows = read_steps(file)
    assert [(row["step"], row["loss"]) for row in rows] == [(0, 0.0), (1, 0.5), (2, 9.0)]
    assert all(row["tokens_per_s"] > 0 for row in rows)


def test_saving_by_the_clock(monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)
    saves = Schedule(every=100, minutes=2, _last=0.0)
    assert not saves.due(1)
    now = 121.0
    assert saves.due(2)
    assert not saves.due(3)
    assert saves.due(100)
    assert not Schedule(every=100, minutes=0, _last=0.0).due(3)


def test_all_bad_settings_are_told_at_once():
    bad = Training(distil="qlora", lr=-1.0, sequences=0, hidden=-1, checkpoint_minutes=-2)
    with pytest.raises(HwfitError) as raised:
        bad.check()
    assert len(raised.value.problems) == 5
    assert json.dumps(raised.value.problems).count("--") >= 5
    Training().check()
