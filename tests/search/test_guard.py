"""A distillation that diverges goes back; one that does not is as it was without a guard, killed or not."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from search_llama import CONFIG, SHAPE, random_weights, tiny_space

from hwfit.precision import Precision
from hwfit.search import checkpoint
from hwfit.search.distil import DistilSettings, Lora, Student, distil
from hwfit.search.guard import GOES_BACK
from hwfit.search.importance import measure_importance, order_model
from hwfit.search.snapshot import Snapshot
from hwfit.search.steps_log import read_steps
from hwfit.search.teacher import distillation_loss, make_targets
from hwfit.search.watch import RISE, WINDOW, Watch

IDS = torch.randint(0, 40, (8, 12), generator=torch.Generator().manual_seed(9))
SOUND = DistilSettings(steps=20, sequences=2, lr=1e-3, checkpoint_every=3, checkpoint_minutes=0, enough=0.0)
TOO_FAST = replace(SOUND, lr=10.0)


@pytest.fixture(scope="module")
def ordered():
    weights = random_weights()
    weights["lm_head.weight"] *= 6  # so that the original is sure of its answers
    return order_model(weights, SHAPE, measure_importance(weights, CONFIG, IDS, progress=False))


@pytest.fixture(scope="module")
def targets(ordered):
    return make_targets(ordered.weights, CONFIG, IDS, progress=False)


def student(ordered, lora: Lora | None = None) -> Student:
    row = tuple(map(Precision.parse, ("w8a8g32", "w4a8g32", "w32", "w8a8g32", "w4a8g32", "w8a8g32", "w4a8g32")))
    subnet = tiny_space().subnet(32, 4, 8, 64, (0, 2), (row, row), Precision.parse("w8a8g32"))
    return Student(ordered, CONFIG, subnet, torch.float32, lora)


def trained(ordered, targets, settings: DistilSettings, path: Path | None = None, **rest):
    net = student(ordered, settings.pairs)
    return net, distil(net, targets, settings, path, "k", **rest)


def loss_of(net: Student, targets) -> float:
    with torch.no_grad():
        return float(distillation_loss(net(targets.ids), targets))


def same(a: Student, b: Student) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def noisy(seed: int, steps: int, noise: float) -> list[float]:
    rng = random.Random(seed)
    return [(0.5 + 2 * math.exp(-i / 40)) * math.exp(rng.gauss(0, noise)) for i in range(steps)]


@pytest.mark.parametrize(("noise", "spike"), [(0.02, 3), (0.1, 3), (0.2, 1), (0.3, 0)])
def test_noise_and_passing_spikes_are_no_rise(noise: float, spike: int):
    for seed in range(20):
        losses = noisy(seed, 300, noise)
        for i in range(30, 300, 40):
            losses[i : i + spike] = [8 * loss for loss in losses[i : i + spike]]
        watch = Watch()
        assert not any(watch.risen(loss) for loss in losses)


@pytest.mark.parametrize("at", [1, 5, 40, 200])
def test_a_loss_that_leaves_is_seen_within_a_window(at: int):
    for seed in range(20):
        watch = Watch()
        losses = [loss if i < at else 4.5 * loss for i, loss in enumerate(noisy(seed, at + WINDOW, 0.1))]
        seen = [i for i, loss in enumerate(losses) if watch.risen(loss)]
        assert seen, (at, seed)
        assert seen[0] >= at


def test_a_rise_below_the_factor_is_left_alone():
    watch = Watch()
    assert not any(watch.risen(loss) for loss in [1.0] * 20 + [0.98 * RISE] * 20)


def test_far_too_high_a_rate_diverges_without_the_guard_and_not_with_it(ordered, targets, tmp_path, capsys):
    before = loss_of(student(ordered), targets)
    unguarded, _ = trained(ordered, targets, TOO_FAST, goes_back=0)
    assert loss_of(unguarded, targets) > RISE * before
    path = tmp_path / "checkpoints" / "distil-a.safetensors"
    guarded, losses = trained(ordered, targets, TOO_FAST, path)
    assert loss_of(guarded, targets) < before
    assert len(losses) == TOO_FAST.steps
    rows = read_steps(tmp_path / "logs" / "distil-a.csv")
    times = max(row["went_back"] for row in rows)
    assert 1 <= times <= GOES_BACK
    for again in range(1, int(times) + 1):
        step = next(row for row in rows if row["went_back"] == again)
        first = next(row for row in rows if row["went_back"] == 0 and row["step"] == step["step"])
        assert step["lr"] == pytest.approx(first["lr"] * 0.5**again)
    assert "back to step 0" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_sound_run_is_what_it_was_without_a_guard(ordered, targets, method: str):
    settings = replace(SOUND, method="lora" if method == "lora" else "full", lora=Lora(rank=4, dropout=0.2))
    (plain, wanted), (guarded, got) = (trained(ordered, targets, settings, goes_back=n) for n in (0, GOES_BACK))
    assert got == wanted
    assert same(plain, guarded)


class Killed(Exception):
    pass


@pytest.mark.parametrize("method", ["full", "lora"])
def test_killed_anywhere_a_diverging_run_ends_the_same(ordered, targets, tmp_path: Path, method: str):
    settings = replace(TOO_FAST, method="lora" if method == "lora" else "full", lora=Lora(rank=4))
    whole, wanted = trained(ordered, targets, settings, tmp_path / "whole" / "checkpoints" / "a.safetensors")
    steps = read_steps(tmp_path / "whole" / "logs" / "a.csv")
    assert steps[-1]["went_back"] >= 1
    path = tmp_path / "killed" / "checkpoints" / "a.safetensors"
    calls = 0

    def advance(steps: float = 1.0, note: str | None = None) -> None:
        nonlocal calls
        calls += 1
        if calls == 8:  # counts on from the checkpoint, which is three steps back at most
            calls = 0
            raise Killed

    for _ in range(40):
        try:
            got, losses = trained(ordered, targets, settings, path, advance=advance)
            break
        except Killed:
            pass
    else:
        pytest.fail("it never ended")
    assert losses == wanted
    assert same(whole, got)
    again = read_steps(tmp_path / "killed" / "logs" / "a.csv")
    assert [{**row, "tokens_per_s": 0} for row in again] == [{**row, "tokens_per_s": 0} for row in steps]


def test_one_loss_that_is_no_number_is_gone_back_from(ordered, targets):
    net = student(ordered)

    def advance(steps: float = 1.0, note: str | None = None) -> None:
        nonlocal done
        done += 1
        if done == 5:
            with torch.no_grad():
                net.weight("model.norm.weight").fill_(float("inf"))

    done = 0
    losses = distil(net, targets, SOUND, advance=advance)
    assert len(losses) == SOUND.steps
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]


def test_going_back_keeps_the_tensors_that_a_recorded_step_reads(ordered, targets):
    net = student(ordered)
    params = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=1e-2)
    snapshot = Snapshot(net, optimizer)
    snapshot.take()
    start = [p.detach().clone() for p in params]

    def step() -> None:
        optimizer.zero_grad()
        distillation_loss(net(targets.ids), targets).backward()
        optimizer.step()

    def places() -> list[int]:
        state = checkpoint.optimizer_tensors(optimizer, "adam")
        return [t.data_ptr() for t in (*params, *state.values())]

    step()
    first, before = [p.detach().clone() for p in params], places()
    snapshot.back()
    assert places() == before
    assert all(torch.equal(p, q) for p, q in zip(params, start, strict=True))
    step()  # as the very first: moments and their count are zero again
    assert all(torch.equal(p, q) for p, q in zip(params, first, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_recorded_steps_go_back_too():
    """On a GPU a step is a CUDA graph from the fourth on; it has to find the snapshot where it looks."""
    device = torch.device("cuda")
    weights = {name: t.to(device) for name, t in random_weights().items()}
    weights["lm_head.weight"] *= 6
    ids = IDS.to(device)
    there = order_model(weights, SHAPE, measure_importance(weights, CONFIG, ids, progress=False))
    targets = make_targets(there.weights, CONFIG, ids, progress=False)
    before = loss_of(student(there), targets)
    unguarded, _ = trained(there, targets, TOO_FAST, goes_back=0)
    assert loss_of(unguarded, targets) > RISE * before
    guarded, _ = trained(there, targets, TOO_FAST)
    assert loss_of(guarded, targets) <= before * (1 + 1e-4)
    (_, wanted), (_, got) = (trained(there, targets, SOUND, goes_back=n) for n in (0, GOES_BACK))
    assert got == pytest.approx(wanted, rel=1e-4)
