"""Summaries of timings, against numpy's own quantiles."""

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwfit.profiler.stats import summarise

TIMES = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=60)


@given(TIMES, st.floats(1e-3, 1e3))
def test_quantiles_are_those_of_the_scaled_samples(times: list[float], scale: float):
    found = summarise(times, scale)
    assert [found.p10, found.p50, found.p90] == pytest.approx(scale * np.quantile(times, [0.1, 0.5, 0.9]), rel=1e-9)
    assert found.low <= found.high


@given(TIMES, st.integers(2, 4))
def test_builds_that_agree_are_summarised_as_one(times: list[float], builds: int):
    repeated = [t for t in times for _ in range(builds)]  # every build has the same samples
    assert astuple(summarise(repeated, builds=builds)) == pytest.approx(astuple(summarise(repeated)), abs=1e-12)


def test_a_constant_of_each_build_is_averaged_rather_than_the_fastest_taken():
    rng = np.random.default_rng(0)
    factors = np.array([0.9, 1.0, 1.1, 1.3])
    times = [float(factors[i % 4] * rng.uniform(1.0, 1.01)) for i in range(96)]
    found = summarise(times, builds=4)
    assert found.p10 == pytest.approx(factors.mean(), rel=0.01)
    assert found.p90 == pytest.approx(found.p10, rel=0.01)
    assert found.spread < 0.01
    assert summarise(times).p10 == pytest.approx(0.9, rel=0.01)


def test_fewer_samples_than_builds():
    assert summarise([1.0, 3.0], builds=4).p10 == pytest.approx(2.0)
