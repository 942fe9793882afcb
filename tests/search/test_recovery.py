"""What probes teach about recovery: known shares are found, and the fitted loss beats the loss at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwfit.search.discretise import WIDTHS
from hwfit.search.recovery import Probe, fit_recovery

PRECISIONS = 4


def probes(shares: np.ndarray, count: int, noise: float, interaction: float = 0.0, seed: int = 0) -> list[Probe]:
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        parts = rng.exponential(0.4, len(shares)) * (rng.random(len(shares)) < 0.7)
        parts[0] += 0.1
        beyond = rng.normal(0, 0.3)
        left = float(parts @ shares) * np.exp(interaction * beyond + noise * rng.normal())
        out.append(Probe(tuple(parts), float(parts.sum() * np.exp(beyond)), float(left)))
    return out


def test_known_shares_are_found():
    shares = np.array([0.6, 0.5, 0.9, 0.4, 0.7, 0.0, 0.3, 0.1, 0.05])
    found = fit_recovery(probes(shares, 80, noise=0.02))
    assert list(found.widths.values()) == pytest.approx(shares[: len(WIDTHS)], abs=0.08)
    assert found.precisions == pytest.approx(tuple(shares[len(WIDTHS) :]), abs=0.08)
    assert found.error < 0.06 < found.error_at_once


def test_interaction_is_found():
    shares = np.full(len(WIDTHS) + PRECISIONS, 0.4)
    found = fit_recovery(probes(shares, 80, noise=0.02, interaction=0.7))
    assert found.interaction == pytest.approx(0.7, abs=0.1)
    left, added, at_once = 0.4, 1.0, 1.5
    assert found.loss(left, at_once, added) == pytest.approx(0.4 * 1.5**0.7, rel=0.1)


def test_error_is_that_of_probes_left_out():
    """Pure noise teaches nothing: the error must say so, however many shares there are to fit."""
    rng = np.random.default_rng(1)
    noise = [Probe(tuple(rng.exponential(1, 9)), 1.0, float(np.exp(rng.normal()))) for _ in range(14)]
    assert fit_recovery(noise).error > 0.8


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 30), st.integers(0, 1000))
def test_any_probes_give_finite_non_negative_shares(count: int, seed: int):
    found = fit_recovery(probes(np.full(9, 0.3), count, noise=0.3, seed=seed))
    shares = [*found.widths.values(), *found.precisions]
    assert all(np.isfinite(s) and s >= 0 for s in shares)
    assert np.isfinite([found.offset, found.interaction, found.error]).all()
