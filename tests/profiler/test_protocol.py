import gc
import math
import time
from typing import get_args

import numpy as np
import pytest
from fake_backend import Clock, FakeBackend, copy_bytes, true_seconds

from hwfit.kernels.op import Op, linear
from hwfit.profiler import clock as clock_module
from hwfit.profiler import protocol as protocol_module
from hwfit.profiler.anchor import FLOAT, FROM_MEMORY, INTEGER, OPS, Anchor, Work
from hwfit.profiler.protocol import Rules, batches, copies, measure
from hwfit.profiler.stats import summarise

L3 = 32 * 2**20
DECODE = [linear(1, n, k, p) for n, k in ((64, 576), (576, 576), (1536, 576)) for p in ("w32", "w8a8", "w4a8g32")]
PREFILL = [linear(128, n, 576, p) for n in (64, 576, 1536) for p in ("w32", "w8a8")]
OTHERS = [Op("attention", 1, 9, 3, head_size=64, context=128), Op("norm", 1, 0, 576), Op("swiglu", 1, 0, 1536)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(clock_module, "now", clock)
    monkeypatch.setattr(protocol_module, "time", clock.time)
    return clock


@pytest.fixture
def backend(clock: Clock) -> FakeBackend:
    return FakeBackend.on(clock)


@pytest.mark.parametrize("ops", [DECODE, PREFILL, OTHERS])
def test_a_quiet_machine_gives_the_true_costs(backend: FakeBackend, ops: list[Op]):
    for reading in measure(ops, backend, Anchor(backend, L3), L3, Rules()):
        assert reading.summary.p10 == pytest.approx(true_seconds(reading.op), rel=1e-9)
        assert reading.raw == pytest.approx(true_seconds(reading.op), rel=1e-9)
        assert reading.narrow


@pytest.mark.parametrize("slower", [1.25, 0.8])
def test_drift_is_corrected_by_the_anchors(backend: FakeBackend, clock: Clock, slower: float):
    """The machine drifts after the first batch: the costs stay, the raw ones do not."""
    anchor = Anchor(backend, L3)
    ops = DECODE + PREFILL + OTHERS
    before = measure(ops, backend, anchor, L3, Rules())
    clock.slowdown = lambda now: slower
    after = measure(ops, backend, anchor, L3, Rules())
    for a, b in zip(before, after, strict=True):
        assert b.summary.p10 == pytest.approx(a.summary.p10)
        assert b.raw == pytest.approx(slower * true_seconds(b.op))
        assert b.correction.factor == pytest.approx(1 / slower)
        assert b.drift == pytest.approx(max(slower, 1 / slower))


def test_what_memory_alone_loses_moves_all_by_the_mean_of_the_pieces(backend: FakeBackend, clock: Clock):
    """Two of four pieces read memory, so the pace moves by about the root of what they lose, no layer by more."""
    anchor = Anchor(backend, L3)
    measure(DECODE, backend, anchor, L3, Rules())
    clock.memory = 1.44
    factors = {reading.correction.factor for reading in measure(DECODE, backend, anchor, L3, Rules())}
    assert len(factors) == 1
    assert 1 / 1.2 <= factors.pop() < 1 / 1.05


def test_reference_of_the_table_is_kept(backend: FakeBackend):
    first = Anchor(backend, L3)
    anchor = Anchor(backend, L3, {w: first.pace([first.sample()], w).mean / 2 for w in get_args(Work)})
    for reading in measure(DECODE, backend, anchor, L3, Rules()):
        assert reading.summary.p10 == pytest.approx(true_seconds(reading.op) / 2, rel=1e-9)


def test_interruptions_do_not_move_the_value(backend: FakeBackend, clock: Clock):
    """Two passes in three lose up to twice their time to other processes: p10 stays within 3 %, the mean does not."""
    rng = np.random.default_rng(1)
    anchor = Anchor(backend, L3)
    for work in get_args(Work):
        anchor.correction([anchor.sample()], work)
    clock.slowdown = lambda now: 1 + rng.uniform(0, 0.005) + (rng.random() < 2 / 3) * rng.uniform(0.1, 2)
    for reading in measure(DECODE, backend, anchor, L3, Rules(seconds=5.0)):
        truth = true_seconds(reading.op)
        assert reading.summary.p10 == pytest.approx(truth, rel=0.03)
        assert reading.summary.mean > 1.05 * truth


def test_a_cell_stops_when_narrow_and_a_noisy_one_goes_on(clock: Clock):
    rng = np.random.default_rng(2)
    noisy = DECODE[4]
    backend = FakeBackend.on(clock)
    build = backend.build

    def build_noisy(op: Op, copies: int, seed: int):
        chain = build(op, copies, seed)
        if op == noisy:
            chain.work = lambda seconds: clock.work(seconds * rng.uniform(1, 3))
        return chain

    backend.build = build_noisy
    readings = {r.op: r for r in measure(DECODE, backend, Anchor(backend, L3), L3, Rules(seconds=30.0))}
    assert readings[noisy].summary.samples == Rules().max_rounds
    assert not readings[noisy].narrow
    others = {r.summary.samples for op, r in readings.items() if op != noisy}
    assert others == {Rules().min_rounds}


def test_time_is_respected(backend: FakeBackend, clock: Clock):
    rng = np.random.default_rng(3)
    clock.slowdown = lambda now: rng.uniform(1, 2)
    anchor = Anchor(backend, L3)
    start = clock.now
    measure(DECODE[:8], backend, anchor, L3, Rules(seconds=0.2, max_rounds=10_000))
    assert clock.now - start < 0.2 * 8 * 1.2


def test_order_rotates_and_the_anchor_runs_each_round(backend: FakeBackend, clock: Clock):
    rng = np.random.default_rng(4)
    clock.slowdown = lambda now: rng.uniform(1, 2)
    anchor = Anchor(backend, L3)
    order: list[Op] = []
    build = backend.build

    def build_recording(op: Op, copies: int, seed: int):
        chain = build(op, copies, seed)
        run = chain.run
        chain.run = lambda: (order.append(op), run())[1]
        return chain

    backend.build = build_recording
    measure(DECODE[:3], backend, anchor, L3, Rules(seconds=1.0, max_rounds=6))
    a, b, c = DECODE[:3]
    assert order[3:] == [a, b, c, b, c, a, c, a, b] * 2, "the first three are warm-ups"
    assert [chain.runs for chain in backend.built[:4]] == [1 + 6] * 4


def test_garbage_collection_is_off_only_while_timing(backend: FakeBackend, clock: Clock):
    seen = []
    clock.slowdown = lambda now: (seen.append(gc.isenabled()), 1.0)[1]
    anchor = Anchor(backend, L3)
    seen.clear()
    measure(DECODE[:2], backend, anchor, L3, Rules())
    warm_up, timed = seen[:2], seen[2:]
    assert warm_up == [True, True]
    assert not any(timed)
    assert gc.isenabled()


def test_streaming_rounds_overflow_the_cache(backend: FakeBackend):
    rules = Rules()
    for op in DECODE:
        found = copies(op, backend, L3, rules)
        assert found * copy_bytes(op) >= 50e6 or found == rules.max_copies
    assert copies(DECODE[6], backend, 2**30, rules) > copies(DECODE[6], backend, L3, rules)
    assert copies(linear(1, 49152, 576, "w32"), backend, L3, rules) == 1


def test_batches_fit_in_memory_and_keep_the_order(backend: FakeBackend):
    rules = Rules(batch=4, batch_bytes=450_000_000)
    ops = DECODE + PREFILL + OTHERS
    groups = list(batches(ops, backend, L3, rules))
    assert [op for group in groups for op in group] == ops
    for group in groups:
        assert len(group) <= 4
        assert sum(copies(op, backend, L3, rules) * copy_bytes(op) for op in group) <= 450_000_000


def test_one_op_larger_than_the_limit_is_a_batch_of_its_own(backend: FakeBackend):
    huge = linear(1, 128_256, 8192, "w32")
    ops = [DECODE[0], huge, DECODE[1]]
    assert list(batches(ops, backend, L3, Rules())) == [[op] for op in ops]


def test_anchors_are_what_they_say(backend: FakeBackend):
    anchor = Anchor(backend, L3)
    sample = anchor.sample()
    *pieces, stream = backend.built
    assert {(chain.op, chain.copies) for chain in pieces} == {FLOAT, INTEGER, *FROM_MEMORY}
    assert stream.op == OPS["cpu"].stream
    assert stream.copies * copy_bytes(stream.op) >= max(100e6, 2 * L3)
    for op, count in FROM_MEMORY:
        assert count * copy_bytes(op) >= 45e6, "cold, after the others have been through the caches"
    each = [true_seconds(op, (op, n) in FROM_MEMORY) / (op.m * op.n * op.k) for op, n in (FLOAT, INTEGER, *FROM_MEMORY)]
    pace = anchor.pace([sample], "few")
    assert pace.mean == pytest.approx(math.prod(each) ** 0.25)
    assert (pace.stream, pace.compute) == (pytest.approx(1 / 20e9, rel=0.02), pytest.approx(min(each)))
    assert pace == anchor.pace([sample], "many")


def test_the_reference_is_an_ordinary_moments_pace(backend: FakeBackend, clock: Clock, monkeypatch: pytest.MonkeyPatch):
    """The first fifth of the calibration runs 1.5 times as fast: the reference is of the rest, and is then kept."""
    monkeypatch.setattr("hwfit.profiler.anchor.time", clock.time)
    anchor = Anchor(backend, L3)
    ordinary = anchor.pace([anchor.sample()], "few").mean
    start = clock.now
    clock.slowdown = lambda now: 1 / 1.5 if now < start + 1 else 1.0
    anchor.calibrate(5.0)
    assert anchor.reference == {"few": pytest.approx(ordinary), "many": pytest.approx(ordinary)}
    kept = dict(anchor.reference)
    clock.slowdown = lambda now: 2.0
    anchor.calibrate(5.0)
    assert anchor.reference == kept


def test_clock_is_fine_and_does_not_count_other_threads_or_sleep():
    if time.get_clock_info("thread_time").resolution > clock_module.FINEST:
        pytest.skip("this system's processor clock is too coarse")
    start, wall = clock_module.now(), time.perf_counter()
    time.sleep(0.05)
    assert clock_module.now() - start < 0.02 < time.perf_counter() - wall
    start = clock_module.now()
    total = sum(range(1_000_000))
    assert total > 0
    assert clock_module.now() - start > 0.001


def test_summary_against_numpy():
    x = list(np.random.default_rng(5).lognormal(0, 0.2, 200))
    s = summarise(x, scale=2.0)
    assert s.p10 == pytest.approx(2 * float(np.percentile(x, 10)))
    assert s.p90 == pytest.approx(2 * float(np.percentile(x, 90)))
    assert (s.mean, s.std) == (pytest.approx(2 * float(np.mean(x))), pytest.approx(2 * float(np.std(x))))
    assert s.low <= s.p10 <= s.high
    assert s.samples == 200


def test_interval_covers_the_true_quantile():
    """Over 200 fresh sample sets, the 95 % interval holds the true p10 in at least 85 % (bootstrap of a tail)."""
    rng = np.random.default_rng(6)
    truth = math.exp(0.2 * -1.2815515655446004)
    hits = [(s := summarise(list(rng.lognormal(0, 0.2, 60)))).low <= truth <= s.high for _ in range(200)]
    assert np.mean(hits) >= 0.85


def test_chains_of_an_op_whose_buffers_matter_take_turns(backend: FakeBackend):
    op = Op("norm", 1, 0, 576)
    (reading,) = measure([op], backend, Anchor(backend, L3), L3, Rules(seconds=1.0, min_rounds=8, max_rounds=8))
    chains = backend.built[-4:]
    assert [chain.runs for chain in chains] == [1 + 2] * 4
    assert reading.summary.samples == 8
