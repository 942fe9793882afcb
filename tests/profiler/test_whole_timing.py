from dataclasses import dataclass, field

import numpy as np
import pytest
from fake_backend import Clock, FakeBackend

from hwfit.profiler import clock as clock_module
from hwfit.profiler import whole as whole_module
from hwfit.profiler.anchor import Anchor
from hwfit.profiler.whole import DECODE_BURST, MIN_ROUNDS, time_models
from hwfit.subnet import ModelShape, Subnet
from hwfit.workload import Workload

L3 = 32 * 2**20
WORKLOAD = Workload(batch=2, prompt=64, context=96)
SUBNET = Subnet.whole(ModelShape(64, 2, 1, 32, 128, 2, 256))


@dataclass
class FakeModel:
    """Decode takes `seconds`, twice that right after another model ran; prefill ten times."""

    name: str
    seconds: float
    clock: Clock
    log: list[str] = field(default_factory=list)
    cold: bool = True
    subnet: Subnet = SUBNET

    def time_prefill(self, tokens: int, batch: int = 1) -> float:
        assert (tokens, batch) == (64, 2)
        self.log.append(self.name)
        self.cold = True
        return self._timed(10 * self.seconds)

    def time_decode(self, context: int, batch: int = 1) -> float:
        assert (context, batch) == (96, 2)
        cold, self.cold = self.cold, False
        return self._timed(self.seconds * (2 if cold else 1))

    def _timed(self, seconds: float) -> float:
        start = self.clock.now
        self.clock.work(seconds)
        return self.clock.now - start


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(clock_module, "now", clock)
    monkeypatch.setattr(whole_module, "time", clock.time)
    return clock


@pytest.fixture
def anchor(clock: Clock) -> Anchor:
    return Anchor(FakeBackend.on(clock), L3)


def test_quiet_machine(clock: Clock, anchor: Anchor):
    log: list[str] = []
    models = {name: FakeModel(name, s, clock, log) for name, s in (("a", 0.01), ("b", 0.02), ("c", 0.03))}
    timings = time_models(models, WORKLOAD, 2.0, anchor, progress=False)
    for name, model in models.items():
        decode, prefill = timings[name]["decode"], timings[name]["prefill"]
        assert decode.p10 == pytest.approx(model.seconds)
        assert prefill.p10 == pytest.approx(10 * model.seconds)
        assert decode.samples == (DECODE_BURST - 1) * prefill.samples
        assert (decode.low, decode.high) == (pytest.approx(model.seconds), pytest.approx(model.seconds))
    assert log[3:9] == ["a", "b", "c", "b", "c", "a"]


def test_drift_is_corrected_and_the_raw_value_kept(clock: Clock, anchor: Anchor):
    models = {"a": FakeModel("a", 0.01, clock)}
    before = time_models(models, WORKLOAD, 1.0, anchor, progress=False)["a"]
    clock.slowdown = lambda now: 1.3
    after = time_models(models, WORKLOAD, 1.0, anchor, progress=False)["a"]
    for phase in ("decode", "prefill"):
        assert after[phase].p10 == pytest.approx(before[phase].p10)
        assert after[phase].raw == pytest.approx(1.3 * before[phase].raw)
        assert after[phase].correction.factor == pytest.approx(1 / 1.3)


def test_time_slices_of_other_processes_are_only_in_the_raw_value(clock: Clock, anchor: Anchor, monkeypatch):
    """The thread is on the processor for two thirds of the wall time."""
    monkeypatch.setattr(clock_module, "now", lambda: clock.now * 2 / 3)
    timing = time_models({"a": FakeModel("a", 0.01, clock)}, WORKLOAD, 1.0, anchor, progress=False)["a"]["decode"]
    assert timing.raw == pytest.approx(0.01)
    assert timing.p10 == pytest.approx(0.01 * 2 / 3)


def test_noise_widens_the_interval_around_the_value(clock: Clock, anchor: Anchor):
    rng = np.random.default_rng(0)
    clock.slowdown = lambda now: rng.uniform(1, 1.3)
    timing = time_models({"a": FakeModel("a", 0.01, clock)}, WORKLOAD, 8.0, anchor, progress=False)["a"]["decode"]
    assert timing.low <= timing.p10 <= timing.high
    assert 0.001 < (timing.high - timing.low) / timing.p10 < 0.1
    assert timing.p10 < timing.p50 < timing.p90


def test_at_least_a_few_rounds_and_none_without_models(clock: Clock, anchor: Anchor):
    timing = time_models({"a": FakeModel("a", 5.0, clock)}, WORKLOAD, 0.1, anchor, progress=False)["a"]
    assert timing["prefill"].samples == MIN_ROUNDS
    assert time_models({}, WORKLOAD, 1.0, anchor, progress=False) == {}
