"""The memory plan against the bytes that the real objects and autograd hold at full size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from search_llama import CONFIG, SHAPE, random_weights, tiny_space
from torch import Tensor, nn

from hwfit.errors import HwfitError
from hwfit.plan_command import plan
from hwfit.search.distil import DistilSettings, Lora, Student
from hwfit.search.importance import measure_importance, order_model
from hwfit.search.live_bytes import LiveBytes
from hwfit.search.memory_plan import KINDS, Plan, Run, _changes, parse_bytes, plan_memory, surely_fits
from hwfit.search.optimise import SearchSettings
from hwfit.search.scale_model import Held, Job, factor_of, held, largest
from hwfit.search.study import StudySettings
from hwfit.search.supernet import Supernet
from hwfit.search.teacher import distillation_loss, make_targets
from hwfit.search.training import Training
from hwfit.space import Space
from hwfit.subnet import ModelShape

SEQ, SEQUENCES = 32, 2
SPACE = tiny_space("w32", "w8a8", "w4a8g32")
SEARCH = SearchSettings(sequences=SEQUENCES, judged=2, rank=4)


def llama(**sizes: int) -> tuple[dict, ModelShape]:
    config = {**CONFIG, **sizes}
    return config, ModelShape.from_config(config)


def student(distil: DistilSettings):
    """A student, its loss, and the bytes autograd saves for it beside what is held anyway (by saved-tensor hooks)."""
    weights = random_weights()
    ids = torch.arange(SEQUENCES * SEQ).view(SEQUENCES, SEQ) % SHAPE.vocab
    ordered = order_model(weights, SHAPE, measure_importance(weights, CONFIG, ids, progress=False))
    targets = make_targets(ordered.weights, CONFIG, ids, progress=False)
    net = Student(ordered, CONFIG, largest(SPACE), torch.float32, distil.pairs, distil.recompute)
    known = {t.untyped_storage().data_ptr() for t in [*net.parameters(), net.table, targets.index, targets.logprob]}
    sizes: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = distillation_loss(net(ids), targets)
    return net, loss, sum(sizes.values())


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_student_holds_what_is_planned(method: str):
    distil = DistilSettings(sequences=SEQUENCES, method="lora" if method == "lora" else "full", lora=Lora(rank=4))
    planned = held(Job(CONFIG, SPACE, SEQ, SEARCH, distil, torch.float32), ["distil"], factor=1)["distil"]
    net, loss, saved = student(distil)
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)
    loss.backward()
    optimizer.step()
    assert planned.gradients == sum(p.grad.nbytes for p in trained if p.grad is not None)
    moments = [t for state in optimizer.state.values() for t in state.values() if t.ndim]
    assert planned.adam == sum(t.nbytes for t in moments)
    assert planned.saved == pytest.approx(saved, rel=0.03)


def test_recomputing_blocks_saves_memory_and_changes_nothing():
    distil = DistilSettings(sequences=SEQUENCES)
    lean = replace(distil, recompute=True)
    plans = [
        held(Job(CONFIG, SPACE, SEQ, SEARCH, d, torch.float32), ["distil"], factor=1)["distil"] for d in (distil, lean)
    ]
    assert plans[1].saved < 0.6 * plans[0].saved
    (net, loss, _), (again, same, _) = student(distil), student(lean)
    loss.backward()
    same.backward()
    assert float(loss.detach()) == float(same.detach())
    for p, q in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)  # pyright: ignore[reportArgumentType]


def test_a_supernet_holds_what_is_planned():
    planned = held(Job(CONFIG, SPACE, SEQ, SEARCH, DistilSettings(), torch.float32), ["supernet weights"], factor=1)
    weights = random_weights()
    ordered = order_model(weights, SHAPE, measure_importance(weights, CONFIG, torch.zeros(2, 8).long(), progress=False))
    net = Supernet(ordered.weights, CONFIG, SPACE, (0, 1, 2), ordered.energy, SEARCH.rank)
    pairs = [p for name, p in net.named_parameters() if name.endswith(("up", "down"))]
    assert planned["supernet weights"].gradients == sum(p.nbytes for p in pairs)
    assert planned["supernet weights"].adam == 2 * sum(p.nbytes for p in pairs)
    banks = [m.bank for m in net.modules() if hasattr(m, "bank")]
    own = sum(t.nbytes for t in [*ordered.weights.values(), *ordered.moments.values(), *banks, *pairs, net.embed])
    assert 1.0 <= planned["supernet weights"].weights / own < 1.15  # and grids, energies, answers


@pytest.mark.slow
def test_a_scale_model_tells_of_the_model():
    config, shape = llama(hidden_size=256, head_dim=64, intermediate_size=512, vocab_size=1024, num_hidden_layers=5)
    space = replace(Space.default(shape, ("w32", "w8a8g32", "w4a8g32"), multiple=32), head_size=(64,))
    assert factor_of(shape, space) == 2
    job = Job(config, space, 64, SEARCH, DistilSettings(method="lora"), torch.bfloat16)
    small, real = held(job, factor=2), held(job, factor=1)
    for stage, h in real.items():
        assert small[stage].peak == pytest.approx(h.peak, rel=0.03), stage
        assert small[stage].weights == pytest.approx(h.weights, rel=0.02), stage


def test_live_bytes_are_those_of_tensors():
    with LiveBytes() as live:
        x = torch.zeros(1000, requires_grad=True)
        y = (x * 2).exp()
        assert live.now == 3 * 4000 - 4000  # the product is not kept
        y.view(10, 100).sum().backward()
        del y
        assert live.now == 2 * 4000
        assert live.peak >= 3 * 4000
        linear = nn.Linear(10, 10, bias=False)
        assert live.now == 2 * 4000 + 400
        del linear
    assert live.now == 2 * 4000


def run_of(room_dtype: torch.dtype = torch.bfloat16) -> Run:
    return Run(CONFIG, SPACE, StudySettings(seq=SEQ), SEARCH, DistilSettings(sequences=2), room_dtype, True)


@pytest.mark.slow
def test_what_does_not_fit_is_refused_with_what_would():
    whole = plan_memory(run_of(), "a GPU", 1e12)
    assert whole.fits
    whole.refuse()
    peak = whole.stages["distil"].peak
    tight = plan_memory(run_of(), "a GPU", 0.75 * peak)
    with pytest.raises(
        HwfitError, match=r"too little memory for 'distil'.*what would fit: .*(--recompute|--distil lora)"
    ):
        tight.refuse()
    none = Plan("a GPU", 1.0, {"distil": Held(10.0)}, {"distil": ()})
    with pytest.raises(HwfitError, match="a device with more memory"):
        none.refuse()


def test_changes_that_are_advised_are_what_their_flags_set():
    default = Training()
    flags = {
        "--recompute": {"recompute": True},
        "--recompute --sequences 1": {"recompute": True, "sequences": 1},
        "--distil lora": {"distil": "lora"},
        "--distil lora --recompute": {"distil": "lora", "recompute": True},
        "--distil lora --recompute --sequences 1": {"distil": "lora", "recompute": True, "sequences": 1},
    }
    run = replace(run_of(), search=default.search_settings(), distil=default.distil_settings())
    for kind in KINDS:
        for words, changed in _changes(run, kind):
            if words.startswith("fewer precisions"):
                assert words.endswith("--recompute --sequences 1")
                words = "--recompute --sequences 1"
            wanted = Training(**flags[words])
            if kind == "distil":
                assert changed.distil == wanted.distil_settings(), words
            else:
                assert changed.search == wanted.search_settings(), words


@pytest.mark.slow
def test_the_quick_bound_is_above_the_plan():
    for run in (run_of(), run_of(torch.float32)):
        peak = max(h.peak for h in run.held().values())
        assert not surely_fits(run, peak)


def test_more_processes_hold_less_each():
    run = run_of()
    h = run.held("distil")["distil"]
    two, four = run.sharded(h, 2), run.sharded(h, 4)
    assert (two.gradients, two.adam) == (h.gradients / 2, h.adam / 2)
    assert four.weights < two.weights < h.weights


@pytest.mark.parametrize("steps", [None, 4])
def test_dry_run_needs_a_config_only(steps: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    found = plan(None, path, ("w8a8",), "cpu", "80GB", Training(steps=steps))
    assert found.fits
    assert found.room == 80e9 - 1.5e9
    out = capsys.readouterr().out
    assert ("architecture" in out) == (steps is not None)  # the supernet is trained where steps are taken
    assert "distil" in out


@pytest.mark.parametrize("text", ["80", "GB", "-1GB", "80 gigs"])
def test_bad_sizes_are_refused(text: str):
    with pytest.raises(HwfitError, match="--gpu-memory"):
        parse_bytes(text, "--gpu-memory")
