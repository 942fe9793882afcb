"""Multipliers against every assignment: whatever is feasible is found, keeps all limits, and is near the best."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hwfit.search.multipliers import Multipliers, used


@st.composite
def problems(draw):
    items, options, limits = draw(st.integers(1, 6)), draw(st.integers(2, 3)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    harm = np.sort(rng.exponential(size=(items, options)), axis=1)
    moved = rng.normal(-0.2, 0.5, size=(limits, items, options)) * draw(st.sampled_from([0.1, 1.0, 3.0]))
    moved[:, :, 0] = 0
    if draw(st.booleans()):
        moved = -np.abs(moved)  # every limit eased by the same choices, as with bits
    return harm, moved, rng.uniform(0.5, 2.0, size=limits)


def brute_force(harm, moved, here):
    items, options = harm.shape
    best = np.inf
    for choice in product(range(options), repeat=items):
        chosen = np.array(choice)
        if (used(chosen, moved, here) <= 1).all():
            best = min(best, harm[np.arange(items), chosen].sum())
    return best


@settings(max_examples=150, deadline=None)
@given(problems())
def test_all_limits_are_kept_and_what_is_feasible_is_found(problem):
    harm, moved, here = problem
    best, got = brute_force(*problem), Multipliers().least_harm(*problem)
    if got is None:
        assert best == np.inf
        return
    assert (used(got, moved, here) <= 1 + 1e-9).all()
    total = harm[np.arange(len(got)), got].sum()
    step = (harm.max(1) - harm.min(1)).max()
    assert best - 1e-9 <= total <= best + len(here) * step + 1e-9
    for item in range(len(got)):  # and nothing affordable is left unspent
        for option in range(harm.shape[1]):
            other = got.copy()
            other[item] = option
            if harm[item, option] < harm[item, got[item]] - 1e-12:
                assert (used(other, moved, here) > 1).any()


def test_two_limits_that_pull_apart_are_both_kept():
    """Option 1 eases the first limit and burdens the second: one multiplier over their sum cannot tell them apart."""
    harm = np.tile([0.0, 1.0, 5.0], (10, 1))
    moved = np.zeros((2, 10, 3))
    moved[0, :, 1], moved[1, :, 1] = -0.1, 0.1
    moved[:, :, 2] = -0.05
    got = Multipliers().least_harm(harm, moved, np.array([1.3, 0.95]))
    assert got is not None
    assert (used(got, moved, np.array([1.3, 0.95])) <= 1 + 1e-9).all()
