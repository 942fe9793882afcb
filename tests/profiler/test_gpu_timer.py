"""Throttled samples, energy and conditions of a GPU, on a simulated clock and a fake NVML."""

from __future__ import annotations

import pytest
from fake_backend import Clock, copy_bytes, true_seconds
from fake_gpu import FakeGpuBackend, FakeLauncher, FakePynvml

from hwfit.kernels.op import Op, linear
from hwfit.profiler import anchor as anchor_module
from hwfit.profiler import clock as clock_module
from hwfit.profiler import energy, gpu_timer
from hwfit.profiler import protocol as protocol_module
from hwfit.profiler.anchor import GPU_COMPUTE, GPU_STREAM, OPS, Anchor
from hwfit.profiler.gpu_timer import PAUSE, RETAKES, GpuTimer
from hwfit.profiler.nvml import Nvml
from hwfit.profiler.protocol import RULES, Rules, batches, copies, default_rules, measure
from hwfit.profiler.sizing import GPU_PASS, chain_bytes

L2 = 60 << 20


def held(spans: list[tuple[float, float]], clock: Clock) -> FakePynvml:
    """Throttled by heat within the spans of simulated time."""
    return FakePynvml(reasons=lambda: 0x20 if any(a <= clock.now < b for a, b in spans) else 0)


def pausing(clock: Clock):
    """A sleep that takes its time whatever the machine's speed."""

    def sleep(seconds: float) -> None:
        clock.now += seconds

    return sleep


def test_seconds_are_the_launchers():
    clock = Clock()
    timer = GpuTimer(FakeLauncher(clock), Nvml(module=FakePynvml()), clock.work)
    assert timer.timed(lambda: clock.work(0.25)) == 0.25
    assert timer.checked(lambda: 7.0) == 7.0
    seen = timer.conditions()
    assert (seen.kept, seen.throttled, seen.retaken, seen.held_back) == (2, 0, 0, 0.0)
    assert str(seen) == "sm 1980 MHz, 40 C, 412 W"
    assert timer.conditions().kept == 0, "told once"


def test_a_throttled_sample_is_thrown_away_and_taken_again_after_a_pause():
    clock = Clock(slowdown=lambda now: 2.0 if now < 0.3 else 1.0)
    timer = GpuTimer(
        FakeLauncher(clock), Nvml(module=held([(0.0, 0.3)], clock)), lambda s: setattr(clock, "now", clock.now + s)
    )
    assert timer.timed(lambda: clock.work(0.1)) == pytest.approx(0.1)
    seen = timer.conditions()
    assert (seen.kept, seen.throttled, seen.retaken) == (1, 0, 2)
    assert "2 throttled samples retaken, 0 kept (temperature)" in str(seen)
    assert clock.now == pytest.approx(0.2 + PAUSE + 0.2 + 2 * PAUSE + 0.1)


def test_a_gpu_that_stays_throttled_is_told_as_such():
    clock = Clock()
    timer = GpuTimer(FakeLauncher(clock), Nvml(module=FakePynvml(reasons=lambda: 0x4)), clock.work)
    assert timer.timed(lambda: clock.work(0.1)) == pytest.approx(0.1)
    seen = timer.conditions()
    assert (seen.kept, seen.throttled, seen.retaken, seen.held_back) == (1, 1, RETAKES - 1, 1.0)


def test_conditions_add_up():
    clock = Clock()
    timer = GpuTimer(FakeLauncher(clock), Nvml(module=FakePynvml(temperature=50)), clock.work)
    timer.timed(lambda: None)
    first = timer.conditions()
    timer._nvml = Nvml(module=FakePynvml(temperature=61, reasons=lambda: 0x4))
    timer.timed(lambda: None)
    both = first + timer.conditions()
    assert (both.kept, both.throttled, both.hottest, both.held_back) == (2, 1, 61, 0.5)
    assert "61 C" in str(both)


@pytest.mark.parametrize("step", [0.0005, 0.02, 0.1])
def test_energy_of_a_call_does_not_depend_on_the_counters_steps(step: float):
    """300 W from a counter that moves every `step` seconds, 1 ms a call: 0.3 J."""
    clock = Clock()
    steps = lambda: int(clock.now / step)  # noqa: E731
    found = energy.joules(
        lambda: clock.work(0.001), lambda: clock.work(1e-6), lambda: 300 * step * steps(), 0.3, lambda: clock.now
    )
    assert found == pytest.approx(0.3, rel=0.02)
    assert clock.now > 0.3


def test_no_counter_or_one_that_stands_still_is_no_energy():
    clock = Clock()
    arguments = (lambda: clock.work(0.001), lambda: None)
    assert energy.joules(*arguments, lambda: None, 0.3, lambda: clock.now) is None
    assert clock.now == 0
    assert energy.joules(*arguments, lambda: 5.0, 0.3, lambda: clock.now) is None


# --- the protocol on a GPU ----------------------------------------------------------------------------------------

DECODE = [linear(1, n, 4096, p) for n in (1024, 4096) for p in ("w16a16", "w8a8", "w4a16g128")]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(protocol_module, "time", clock.time)
    monkeypatch.setattr(energy, "time", clock.time)
    return clock


@pytest.fixture
def gpu(clock: Clock, monkeypatch: pytest.MonkeyPatch):
    """`gpu(module)` is a backend whose timer reads that fake NVML."""

    def become(module: FakePynvml) -> FakeGpuBackend:
        def timer(backend: FakeGpuBackend) -> GpuTimer:
            return GpuTimer(backend.launcher, Nvml(module=module), pausing(clock))

        monkeypatch.setitem(clock_module._TIMERS, "cuda", timer)
        return FakeGpuBackend.on(clock)

    return become


def test_a_quiet_gpu_gives_the_true_costs_and_energies(gpu, clock: Clock):
    backend = gpu(FakePynvml(millijoules=lambda: int(clock.now / 0.02) * 0.02 * 300_000))
    anchor = Anchor(backend, L2)
    for reading in measure(DECODE, backend, anchor, L2, Rules(seconds=20.0, energy=2.0, max_rounds=20)):
        truth = true_seconds(reading.op)
        assert reading.summary.p10 == pytest.approx(truth, rel=1e-9)
        assert reading.joules == pytest.approx(300 * truth, rel=0.05)
        assert reading.held_back == 0.0
        assert reading.conditions == "sm 1980 MHz, 40 C, 412 W"


def test_throttled_samples_do_not_enter(gpu, clock: Clock):
    """Twice as slow, and saying so, a third of the time: the costs are the true ones."""
    hot = lambda now: now % 3.0 < 1.0  # noqa: E731
    backend = gpu(FakePynvml(reasons=lambda: 0x4 if hot(clock.now) else 0))
    clock.slowdown = lambda now: 2.0 if hot(now) else 1.0
    readings = measure(DECODE, backend, Anchor(backend, L2), L2, Rules(seconds=100.0, max_rounds=20))
    for reading in readings:
        assert reading.summary.p90 == pytest.approx(true_seconds(reading.op), rel=1e-6)
        assert reading.held_back == 0.0
    assert any("throttled samples retaken" in reading.conditions for reading in readings)


def test_a_gpu_that_never_recovers_is_not_called_stable(gpu):
    backend = gpu(FakePynvml(reasons=lambda: 0x8))
    readings = measure(DECODE[:2], backend, Anchor(backend, L2), L2, Rules(min_rounds=2, max_rounds=2))
    assert all(reading.held_back == 1.0 for reading in readings)


def test_the_anchors_are_the_gpus_own(gpu):
    backend = gpu(FakePynvml())
    pace = Anchor(backend, L2).sample()
    stream, compute, _ = backend.built
    assert ((stream.op, stream.copies), (compute.op, compute.copies)) == (GPU_STREAM, GPU_COMPUTE)
    assert OPS["cuda"].pieces == {"few": (GPU_STREAM,), "many": (GPU_COMPUTE,)}
    assert stream.copies * copy_bytes(stream.op) >= 2 * L2
    assert pace.stream == pytest.approx(1 / 20e9, rel=0.02)
    assert pace.pieces[GPU_COMPUTE] == pytest.approx(1 / 100e9, rel=0.05)


def test_chains_last_long_enough_to_be_timed(gpu):
    """At rates no GPU reaches, every chain still lasts a millisecond, unless copies of it run out."""
    backend, rules = gpu(FakePynvml()), default_rules("cuda")
    for op in (*DECODE, linear(2048, 14336, 4096, "w16a16"), Op("norm", 1, 0, 4096), Op("swiglu", 2048, 0, 14336)):
        count = copies(op, backend, L2, rules)
        activations = {"linear": 2 * (op.n + op.k), "norm": 8 * op.k, "swiglu": 6 * op.k}[op.kind]
        moved = copy_bytes(op) + op.m * activations
        least = max(2e-6, moved / 8e12, op.m * op.n * op.k / 1e15)
        assert count * least >= GPU_PASS or count == rules.max_copies
    assert copies(linear(2048, 14336, 4096, "w16a16"), backend, L2, rules) < 20
    assert copies(linear(1, 128_256, 8192, "w16a16"), backend, L2, rules) >= 2


def test_memory_of_a_chain_is_that_of_its_distinct_copies(gpu):
    backend, rules = gpu(FakePynvml()), default_rules("cuda")
    op = DECODE[0]
    assert chain_bytes(op, backend, L2, rules) == copies(op, backend, L2, rules) * copy_bytes(op)
    backend.resident_bytes = lambda op, count: 123
    assert chain_bytes(op, backend, L2, rules) == 123
    assert [len(group) for group in batches(DECODE, backend, L2, rules)] == [len(DECODE)]


def test_rules_of_the_processor_are_what_they_were():
    assert default_rules("cpu") == RULES["cpu"] == Rules() == default_rules("unheard of")
    assert Rules().energy == 0.0
    assert anchor_module.OPS["cpu"].stream_copies is None
    assert gpu_timer.RETAKES > 1
