"""Teacher, importance, relaxation and distillation against transformers' own forward and plain algebra."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from search_llama import CONFIG, SHAPE, random_weights, tiny_space

from hwfit.deploy.bundle import dense_weights
from hwfit.deploy.slice import slice_weights
from hwfit.models.llama import torch_model
from hwfit.precision import Precision
from hwfit.search.compensate import compensated
from hwfit.search.distil import DistilSettings, Student, distil
from hwfit.search.importance import measure_importance, order_model
from hwfit.search.relax import Architecture, reinmax
from hwfit.search.sensitivity import full
from hwfit.search.supernet import Supernet
from hwfit.search.teacher import Targets, distillation_loss, make_targets
from hwfit.subnet import LINEARS, Subnet

IDS = torch.randint(0, 40, (6, 12), generator=torch.Generator().manual_seed(9))


def reference_logits(weights, ids=IDS):
    with torch.no_grad():
        return torch_model(CONFIG, weights)(ids).logits


def ordered():
    weights = random_weights()
    return order_model(weights, SHAPE, measure_importance(weights, CONFIG, IDS, progress=False))


def targets(weights, top: int = 8) -> Targets:
    return make_targets(weights, CONFIG, IDS, top=top, progress=False)


def test_ordering_keeps_the_function_and_sorts_by_value():
    o = ordered()
    assert torch.allclose(reference_logits(o.weights), reference_logits(random_weights()), atol=1e-4)
    for block in range(SHAPE.blocks):
        w = o.weights[f"model.layers.{block}.mlp.down_proj.weight"]
        value = o.energy[f"model.layers.{block}.mlp.down_proj"] * w.square().sum(0)
        assert (value[:-1] >= value[1:]).all()


def test_block_scores_are_one_minus_cosine_of_transformers_hidden_states():
    weights = random_weights()
    got = measure_importance(weights, CONFIG, IDS, progress=False).blocks
    with torch.no_grad():
        states = torch_model(CONFIG, weights).model(IDS, output_hidden_states=True).hidden_states
    # transformers' last hidden state is already normalised, so the last block is left out
    for b in range(SHAPE.blocks - 1):
        want = 1 - F.cosine_similarity(states[b][:, 1:], states[b + 1][:, 1:], dim=-1).mean()
        assert float(got[b]) == pytest.approx(float(want), abs=1e-5)


def test_supernet_at_its_full_choice_is_the_original():
    space = tiny_space("w32", "w8a8g32")
    net = Supernet(random_weights(), CONFIG, space, (0, 1, 2))
    with torch.no_grad():
        assert torch.allclose(net(IDS, full(net)), reference_logits(random_weights()), atol=1e-4)


def test_loss_with_the_whole_vocabulary_on_top_is_the_full_divergence():
    weights = random_weights()
    t = targets(weights, top=39)
    logits = torch.randn(6, 12, 40, generator=torch.Generator().manual_seed(1))
    want = F.kl_div(
        logits.log_softmax(-1), reference_logits(weights).log_softmax(-1), log_target=True, reduction="none"
    )
    assert float(distillation_loss(logits, t)) == pytest.approx(float(want.sum(-1).mean()), rel=1e-4)
    assert float(distillation_loss(reference_logits(weights), targets(weights, top=4))) == pytest.approx(0.0, abs=1e-5)


def test_teacher_answers_are_read_back_from_the_cache(tmp_path):
    weights = random_weights()
    first = make_targets(weights, CONFIG, IDS, top=4, cache=tmp_path, progress=False)
    broken = {name: torch.zeros_like(w) for name, w in weights.items()}
    again = make_targets(broken, CONFIG, IDS, top=4, cache=tmp_path, progress=False)
    assert torch.equal(first.index, again.index)
    assert torch.equal(first.logprob, again.logprob)


def test_reinmax_is_one_hot_and_its_gradient_beats_straight_through():
    """Against the exact gradient of E[f(z)], f quadratic: ReinMax's mean gradient is closer than straight-through's."""
    logits = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64)
    a = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)

    def value(z):
        return (z * a).sum() + 1.5 * ((z * a).sum()) ** 2

    exact_logits = logits.clone().requires_grad_()
    p = exact_logits.softmax(-1)
    sum(p[i] * value(F.one_hot(torch.tensor(i), 3).double()) for i in range(3)).backward()
    sums = {"reinmax": torch.zeros(3).double(), "straight": torch.zeros(3).double()}
    g = torch.Generator().manual_seed(0)
    draws = 4000
    for _ in range(draws):
        x = logits.clone().requires_grad_()
        z = reinmax(x, g)
        assert z.detach().sort().values.tolist() == pytest.approx([0, 0, 1])
        value(z).backward()
        sums["reinmax"] += x.grad / draws
        x = logits.clone().requires_grad_()
        p = x.softmax(-1)
        value(z.detach() + p - p.detach()).backward()
        sums["straight"] += x.grad / draws
    error = {name: float((got - exact_logits.grad).norm()) for name, got in sums.items()}
    assert error["reinmax"] < 0.25 * error["straight"]


def test_dirichlet_samples_have_the_softmax_as_their_mean_and_repeat_by_seed():
    architecture = Architecture(tiny_space())
    with torch.no_grad():
        architecture.logits["mlp"].copy_(torch.tensor([1.0, 0.0, -1.0]))
    draws = [architecture.sample(4.0, torch.Generator().manual_seed(s)).mlp.detach() for s in range(800)]
    assert torch.allclose(torch.stack(draws).mean(0), architecture.mean().mlp.detach(), atol=0.03)
    again = architecture.sample(4.0, torch.Generator().manual_seed(7)).mlp
    assert torch.equal(again, draws[7])


def mixed_subnet() -> Subnet:
    names = ("w8a8g32", "w4a8g32", "w32", "w8a8g32", "w4a8g32", "w8a8g32", "w4a8g32")
    row = tuple(map(Precision.parse, names))
    space = tiny_space()
    return space.subnet(32, 4, 8, 64, (0, 2), (row, row), Precision.parse("w8a8g32"))


def test_distillation_lowers_the_loss_and_the_bundle_holds_what_was_trained():
    o = ordered()
    student = Student(o, CONFIG, mixed_subnet(), torch.float32)
    losses = distil(student, targets(o.weights), DistilSettings(steps=30, sequences=6, lr=3e-3))
    assert losses[-1] < 0.8 * losses[0]
    dense = dense_weights(student.bundle())
    for i in range(2):
        for name in LINEARS:
            key = f"model.layers.{i}.{'mlp' if name in LINEARS[4:] else 'self_attn'}.{name}.weight"
            trained = student.weight(key).detach()
            assert (dense[key] - trained).abs().max() < 0.5 * trained.abs().max()
    rounded = Student(o, CONFIG, mixed_subnet(), torch.float32)
    rounded.load_state_dict({n: dense[n.rpartition(".")[2].replace("/", ".")] for n in rounded.state_dict()})
    with torch.no_grad():  # rounding what is on the grid already changes nothing
        assert torch.allclose(rounded(IDS), student(IDS), atol=1e-4)


def test_distillation_resumes_to_the_same_weights(tmp_path):
    o = ordered()
    settings = DistilSettings(steps=6, sequences=2, checkpoint_every=2)
    whole = Student(o, CONFIG, mixed_subnet(), torch.float32)
    want = distil(whole, targets(o.weights), settings)

    class Killed(Exception):
        pass

    def advance(steps: float = 1.0, note: str | None = None) -> None:
        nonlocal seen
        seen += 1
        if seen == 5:
            raise Killed

    seen = 0
    path = tmp_path / "distil.safetensors"
    with pytest.raises(Killed):
        distil(Student(o, CONFIG, mixed_subnet(), torch.float32), targets(o.weights), settings, path, "k", advance)
    resumed = Student(o, CONFIG, mixed_subnet(), torch.float32)
    got = distil(resumed, targets(o.weights), settings, path, "k")
    assert got == pytest.approx(want, rel=1e-6)
    for name, weight in whole.state_dict().items():
        assert torch.allclose(weight, resumed.state_dict()[name], atol=1e-7), name


def test_compensation_is_the_least_squares_fit_of_the_dropped_inputs():
    """Against numpy's lstsq on the very activations: the pruned down_proj answers as well as any weights could."""
    o = ordered()
    subnet = tiny_space().subnet(64, 4, 16, 64, (0, 1, 2), ((Precision.parse("w32"),) * 7,) * 3, Precision.parse("w32"))
    pruned = compensated(slice_weights(o.weights, SHAPE, subnet), o, SHAPE, subnet, ridge=1e-4)
    model = torch_model(CONFIG, o.weights)
    seen = []
    model.model.layers[1].mlp.down_proj.register_forward_hook(lambda module, args, y: seen.append((args[0], y)))
    with torch.no_grad():
        model(IDS)
    x, y = (t[:, 1:].flatten(0, 1) for t in seen[0])
    best = torch.linalg.lstsq(x[:, :64].double(), y.double(), driver="gelsd").solution
    errors = {
        "cut": (x[:, :64] @ o.weights["model.layers.1.mlp.down_proj.weight"][:, :64].T - y).square().mean(),
        "ours": (x[:, :64] @ pruned["model.layers.1.mlp.down_proj.weight"].T - y).square().mean(),
        "best": (x[:, :64].double() @ best - y.double()).square().mean(),
    }
    assert errors["ours"] < 0.5 * errors["cut"]
    assert errors["ours"] < errors["best"] + 0.05 * errors["cut"]
    kept = compensated(slice_weights(o.weights, SHAPE, subnet), o, SHAPE, subnet, ridge=1e9)
    assert all(torch.allclose(kept[n], w, atol=1e-6) for n, w in slice_weights(o.weights, SHAPE, subnet).items())
