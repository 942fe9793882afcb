"""Every metric of a subnet against plain sums over its ops, and the expectation of a certain choice against both."""

from __future__ import annotations

import random

import pytest
import torch
from made_up import MadeUp, made_up_device
from search_llama import tiny_space

from hwfit.errors import HwfitError
from hwfit.kernels.op import subnet_ops
from hwfit.latency_models.choices import one_hot, uniform
from hwfit.latency_models.whole import WholeModel
from hwfit.search.budget import METRICS
from hwfit.search.costs import ExpectedCosts, predicted_cost
from hwfit.subnet import ModelShape, Subnet
from hwfit.workload import PHASES, Workload

WORKLOAD = Workload(batch=3, prompt=16, context=20)
ORDER = (2, 0, 1)


def subnets(count: int = 6):
    """Subnets of the tiny space that keep the most important blocks."""
    space, rng = tiny_space(), random.Random(0)
    drawn = [space.sample(rng) for _ in range(40)]
    return space, [s for s in drawn if set(s.blocks) == set(ORDER[: len(s.blocks)])][:count]


def test_each_metric_is_the_plain_sum_it_is_named_for():
    latency = made_up_device(4)
    _, found = subnets()
    for s in found:
        got = predicted_cost(latency, WORKLOAD, s)
        assert set(got) == set(METRICS)
        ops = {
            phase: sum(n * MadeUp(4).price(op) for op, n in subnet_ops(s, WORKLOAD.phase(phase)).items())
            for phase in PHASES
        }
        joules = sum(n * MadeUp(5).price(op) for op, n in subnet_ops(s, WORKLOAD.decode).items())
        assert got["decode"] == pytest.approx(1.1 * ops["decode"] + 1e-4 * len(s.blocks) + 2e-4)
        assert got["prefill"] == pytest.approx(0.9 * ops["prefill"])
        assert got["energy"] == pytest.approx(joules / 3)
        assert got["power"] == pytest.approx(joules / got["decode"])
        weights = sum(n * k for n, k, _ in s.linears.values()) + s.vocab * s.hidden
        assert got["params"] == weights
        assert got["1/params"] == pytest.approx(1 / weights)
        packed = sum(p.weight_bytes(n, k) for n, k, p in s.linears.values()) + 4 * s.vocab * s.hidden
        assert got["disk"] == packed + 4 * s.hidden * (2 * len(s.blocks) + 1)
        assert got["memory"] == packed + 2 * 2 * s.kv_heads * s.head_size * len(s.blocks) * 20 * 3


@pytest.mark.parametrize("metric", METRICS)
def test_expectation_of_a_certain_choice_is_the_prediction(metric: str):
    space, found = subnets()
    latency = made_up_device(4)
    costs = ExpectedCosts(space, ORDER, latency, WORKLOAD)
    for s in found:
        want = predicted_cost(latency, WORKLOAD, s, [metric])[metric]
        assert float(costs[metric](one_hot(space, s, ORDER))) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_has_a_gradient_in_every_choice(metric: str):
    space, _ = subnets()
    mean = uniform(space).map(lambda t: t.requires_grad_())
    ExpectedCosts(space, ORDER, made_up_device(4), WORKLOAD)[metric](mean).backward()
    widths = [t for t in mean.tensors() if t.grad is not None and bool(t.grad.abs().sum() > 0)]
    assert len(widths) >= (5 if "params" in metric else 7)


def test_energy_that_was_never_counted_is_refused_and_the_rest_priced():
    whole = Subnet.whole(ModelShape(64, 4, 2, 16, 96, 3, 40))
    silent = WholeModel(made_up_device(4).lookup)
    assert set(predicted_cost(silent, WORKLOAD, whole)) == set(METRICS) - {"energy", "power"}
    for metric in ("energy", "power"):
        with pytest.raises(HwfitError, match=r"'made-up' has no energy.*`hwfit profile MODEL --device cuda`"):
            ExpectedCosts(tiny_space(), ORDER, silent, WORKLOAD)[metric]
        with pytest.raises(HwfitError, match="has no energy"):
            predicted_cost(silent, WORKLOAD, whole, [metric])


def test_only_what_is_asked_for_is_priced():
    costs = ExpectedCosts(tiny_space(), ORDER, WholeModel(made_up_device(4).lookup), WORKLOAD)
    assert torch.isfinite(costs["decode"](uniform(tiny_space())))
    assert set(costs) == {"decode"}
