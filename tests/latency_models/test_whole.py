"""Whole models: the sum against the formula, the overhead against terms planted in the data, files against damage."""

import json
import math
import random
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_table import DEVICE, SMOLLM, WORKLOAD, frame, seconds, space_ops, tiny_space

from hwfit.errors import HwfitError
from hwfit.kernels.op import subnet_ops
from hwfit.latency_models.estimate import DataMiss
from hwfit.latency_models.lookup import Lookup
from hwfit.latency_models.memory import read_bytes
from hwfit.latency_models.overhead import Overhead, Terms
from hwfit.latency_models.robust import Runs, fit_terms
from hwfit.latency_models.whole import WholeModel, fit_overhead, memory
from hwfit.lut_store.facts import last_cache
from hwfit.lut_store.shipped import open_table
from hwfit.space import Space
from hwfit.subnet import Subnet
from hwfit.workload import PHASES


@pytest.fixture(scope="module")
def space() -> Space:
    return Space.default(SMOLLM)


@pytest.fixture(scope="module")
def lookup(space) -> Lookup:
    return Lookup.fit(frame([op for name in PHASES for op in space_ops(space, WORKLOAD.phase(name))]), DEVICE)


def plain_sum(subnet: Subnet, phase) -> float:
    """Spelled out: every linear, two norms, attention and SwiGLU a block; embedding, last norm, LM head."""
    return math.fsum(seconds(op) for op, count in subnet_ops(subnet, phase).items() for _ in range(count))


def plain_bytes(subnet: Subnet, phase) -> float:
    """Spelled out: fp32 keys and values, and the packed weights of all linears; nothing stays of many rows."""
    cache = 2 * 4 * subnet.kv_heads * subnet.head_size * phase.context * phase.batch * len(subnet.blocks)
    return (
        subnet.weight_bytes - subnet.embed.weight_bytes(subnet.vocab, subnet.hidden) + cache
        if phase.m < 17
        else math.inf
    )


def timed(space: Space, terms: dict[str, Terms], count: int, noise: float = 0.0, seed: int = 0):
    """Random subnets with the seconds a device with these overhead terms would take."""
    rng, generator = random.Random(seed), np.random.default_rng(seed)
    runs = []
    for _ in range(count):
        subnet = space.sample(rng)
        for name in PHASES:
            phase = WORKLOAD.phase(name)
            truth = terms[name].apply(plain_sum(subnet, phase), len(subnet.blocks), plain_bytes(subnet, phase))
            runs.append((subnet, phase, truth * float(np.exp(noise * generator.standard_normal()))))
    return runs


def test_predict_is_the_sum_of_ops_and_overhead(space, lookup):
    whole = WholeModel(lookup, Overhead(decode=Terms(block=1e-5, constant=2e-4, scale=1.2)))
    subnet = space.sample(random.Random(1))
    decode = whole.predict(subnet, WORKLOAD.decode)
    expected = 1.2 * plain_sum(subnet, WORKLOAD.decode) + 1e-5 * len(subnet.blocks) + 2e-4
    assert decode.value == pytest.approx(expected, rel=1e-12)
    assert decode.low < decode.value < decode.high
    assert decode.source == "whole"
    prefill = whole.predict(subnet, WORKLOAD.prefill)
    assert prefill.value == pytest.approx(plain_sum(subnet, WORKLOAD.prefill))
    assert (prefill.low, prefill.high) == pytest.approx((0.99 * prefill.value, 1.01 * prefill.value))


@pytest.mark.parametrize("names", [("block",), ("scale",), ("constant",), ("scale", "block")])
def test_planted_overhead_is_found(space, lookup, names):
    planted = Terms(**{n: {"block": 2.5e-5, "scale": 1.3, "constant": 1e-3}[n] for n in names})
    truth = {"decode": planted, "prefill": Terms()}
    overhead = fit_overhead(lookup, timed(space, truth, 8))
    assert overhead.decode == replace(
        planted,
        scale=pytest.approx(planted.scale, rel=1e-6),
        block=pytest.approx(planted.block, rel=1e-5, abs=1e-12),
        constant=pytest.approx(planted.constant, rel=1e-5, abs=1e-12),
        error=pytest.approx(0, abs=1e-6),
        runs=8,
    )
    assert overhead.device == DEVICE
    assert (overhead.prefill.block, overhead.prefill.constant, overhead.prefill.scale) == (0, 0, 1)


def test_a_cache_that_holds_small_models_is_found(space, lookup):
    planted = Terms(scale=1.1, resident=0.5, cache=90e6)
    truth = {"decode": planted, "prefill": Terms(scale=1.1)}
    runs = timed(space, truth, 16, noise=0.01)
    overhead = fit_overhead(lookup, runs, cache=480e6)
    assert fit_overhead(lookup, runs, cache=32e6).decode.resident == 0, "no model fits into that"
    assert overhead.decode.resident == pytest.approx(0.5, abs=0.15)
    assert overhead.decode.cache == pytest.approx(90e6, rel=0.2)
    assert overhead.prefill.resident == 0
    whole, cold = WholeModel(lookup, overhead), WholeModel(lookup, overhead).from_memory
    new = [run for run in timed(space, truth, 30, seed=5) if run[1].name == "decode"]
    errors = [[abs(w.predict(s, p).value / t - 1) for s, p, t in new] for w in (whole, cold)]
    assert np.mean(errors[0]) < 0.03
    assert np.mean(errors[1]) > 2 * np.mean(errors[0]), "some of these models stay in the cache"


def test_a_device_without_such_a_cache_gets_none(space, lookup):
    truth = {"decode": Terms(scale=1.1, block=1e-5), "prefill": Terms()}
    found = [
        fit_overhead(lookup, timed(space, truth, 12, noise=0.02, seed=seed), cache=480e6).decode for seed in range(4)
    ]
    assert sum(terms.resident > 0.1 for terms in found) <= 1


def test_bytes_read_are_those_of_weights_keys_and_values(space):
    subnet = space.sample(random.Random(3))
    for phase in (WORKLOAD.decode, replace(WORKLOAD, batch=4).decode, WORKLOAD.prefill):
        assert read_bytes(subnet, phase) == plain_bytes(subnet, phase)


def test_the_fit_helps_models_it_did_not_see(space, lookup):
    truth = {"decode": Terms(2e-5, 3e-4, 1.15), "prefill": Terms(4e-5, 0.0, 1.05)}
    new = timed(space, truth, 25, noise=0.02, seed=99)
    inside, errors = [], []
    for seed in range(4):
        whole = WholeModel(lookup, fit_overhead(lookup, timed(space, truth, 16, noise=0.02, seed=seed)))
        for subnet, phase, took in new:
            estimate = whole.predict(subnet, phase)
            errors.append(abs(estimate.value / took - 1))
            inside.append(estimate.low <= took <= estimate.high)
    assert np.mean(errors) < 0.025
    assert np.mean(inside) > 0.8
    assert np.mean([abs(plain_sum(s, p) / t - 1) for s, p, t in new]) > 0.08


def test_an_outlier_does_not_bend_the_fit(space, lookup):
    truth = {"decode": Terms(block=3e-5), "prefill": Terms(block=3e-5)}
    runs = timed(space, truth, 9)
    runs[4] = (*runs[4][:2], 3 * runs[4][2])
    assert fit_overhead(lookup, runs).decode.block == pytest.approx(3e-5, rel=0.05)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_runs_fit_nothing(space, lookup, count):
    truth = {name: Terms(scale=1.5) for name in PHASES}
    terms = fit_overhead(lookup, timed(space, truth, count)).decode
    assert (terms.scale, terms.block, terms.constant, terms.runs) == (1, 0, 0, count)
    assert (terms.error > 1 / 3) if count else (terms.error == 0)


def test_noise_alone_brings_no_three_terms():
    generator = np.random.default_rng(3)
    ops, blocks = generator.uniform(5e-3, 9e-3, 10), generator.integers(16, 31, 10).astype(float)
    read = ops * 1e10
    terms = fit_terms(Runs(ops, blocks, read, ops * np.exp(0.02 * generator.standard_normal(10)), 1e9))
    assert sum([terms.scale != 1, terms.block != 0, terms.constant != 0, terms.resident != 0]) <= 1
    assert terms.error < 0.06


def test_times_that_are_none(space, lookup):
    subnet = space.sample(random.Random(0))
    with pytest.raises(HwfitError) as caught:
        fit_overhead(lookup, [(subnet, WORKLOAD.decode, s) for s in (0.01, 0.0, math.nan, math.inf, -1.0)])
    assert len(caught.value.problems) == 4


def test_missing_ops_are_all_listed(lookup):
    tiny = tiny_space()
    subnet = Subnet.whole(tiny.shape, "w4a8g32", embed="w8a8g32")
    with pytest.raises(DataMiss) as caught:
        WholeModel(lookup).predict(subnet, WORKLOAD.decode)
    assert set(caught.value.missing) == set(subnet_ops(subnet, WORKLOAD.decode))


def test_overhead_of_another_device_is_refused(lookup):
    with pytest.raises(HwfitError, match="elsewhere"):
        WholeModel(lookup, Overhead(device="elsewhere"))


def test_memory_is_the_file_and_the_cache(space):
    subnet = Subnet.whole(SMOLLM, "w32")
    assert memory(subnet, context=0) == subnet.weight_bytes == 4 * subnet.params
    assert memory(subnet, context=100, batch=2) - subnet.weight_bytes == 2 * 100 * 30 * (2 * 3 * 64) * 4
    gpu = memory(subnet, context=100, batch=2, device="nvidia-h200-sm90")
    assert gpu - subnet.weight_bytes == 2 * 100 * 30 * (2 * 3 * 64) * 2


def test_predict_is_quick_after_the_first_call(space, lookup):
    whole, best = WholeModel(lookup), math.inf
    for seed in range(30):
        subnet = space.sample(random.Random(seed % 3))
        start = time.perf_counter()
        whole.predict(subnet, WORKLOAD.decode)
        best = min(best, time.perf_counter() - start)
    assert best < 2e-3


finite = st.floats(-1.0, 1.0)
terms = st.builds(Terms, finite, finite, st.floats(0.01, 10), st.floats(0, 5), st.integers(0, 100))


@given(decode=terms, prefill=terms, device=st.text())
def test_overhead_file_round_trip(decode, prefill, device):
    overhead = Overhead(decode, prefill, device)
    assert Overhead.from_json(overhead.to_json()) == overhead


def test_overhead_saved_whole(tmp_path):
    path = tmp_path / "overhead.json"
    Overhead(device="a").save(path)
    Overhead(device="b").save(path)
    assert Overhead.load(path).device == "b"
    assert [p.name for p in tmp_path.iterdir()] == ["overhead.json"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 1}, "format 1"),
        ({"decode": None}, "not an overhead file"),
        ({"device": 3}, "device=3"),
        (
            {
                "prefill": {
                    "block": 0,
                    "constant": "x",
                    "scale": -1,
                    "error": -0.1,
                    "runs": 0,
                    "resident": 0,
                    "cache": 0,
                }
            },
            "prefill.constant='x'",
        ),
    ],
)
def test_a_bad_overhead_file_says_what_is_wrong(tmp_path, change, said):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({**json.loads(Overhead().to_json()), **change}))
    with pytest.raises(HwfitError) as caught:
        Overhead.load(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    if "prefill" in change:
        assert len(caught.value.problems) == 3


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', "\x00"])
def test_no_overhead_file_at_all(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(HwfitError, match=r"bad\.json"):
        Overhead.load(path)
    with pytest.raises(HwfitError, match="cannot be read"):
        Overhead.load(tmp_path / "none.json")


def test_a_devices_last_cache_is_read_from_its_runs():
    table = open_table("shipped")
    assert last_cache(table, "cpu-amd-epyc-26-2-4e0027") == 32 << 20
    assert last_cache(table, "cuda-nvidia-h200-6aeec2") == 60 << 20, "its L2: it has no third one"
    assert last_cache(table, "nowhere") == 0
