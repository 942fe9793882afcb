"""Lookup and Surface against scipy's interpolators, leave-one-out by hand, and the formula behind the table."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import LinearNDInterpolator, RegularGridInterpolator
from synthetic_table import DEVICE, SMOLLM, WORKLOAD, frame, seconds, space_ops
from threadpoolctl import threadpool_limits

from hwfit.errors import HwfitError
from hwfit.kernels.op import Op, linear
from hwfit.latency_models.estimate import DataMiss
from hwfit.latency_models.lookup import Family, Lookup
from hwfit.latency_models.surface import Errors, Surface, best_surface
from hwfit.space import Space

NS, KS = (128, 256, 512, 1024), (64, 192, 576)


def bumpy(n: int, k: int) -> float:
    """No roofline: a smooth law with a curve in it."""
    return 1e-6 * n**0.7 * k**1.2 * (1.2 + math.sin(math.log(n)) / 4)


def grid(law=bumpy) -> dict[tuple[int, ...], float]:
    return {(n, k): law(n, k) for n in NS for k in KS}


@given(n=st.integers(128, 1024), k=st.integers(64, 576))
def test_inside_a_full_grid_it_is_bilinear_in_logs(n, k):
    values = np.log([[bumpy(a, b) for b in KS] for a in NS])
    reference = RegularGridInterpolator((np.log(NS), np.log(KS)), values)
    assert Surface(grid(), "constant")((n, k)) == pytest.approx(np.exp(reference((np.log(n), np.log(k)))), rel=1e-9)


@given(n=st.integers(128, 1024), k=st.integers(64, 576))
def test_a_roofline_is_reproduced_exactly(n, k):
    def law(n, k):
        return 2e-6 + 3e-10 * n * k + 1e-9 * k

    assert Surface(grid(law), "roofline")((n, k)) == pytest.approx(law(n, k), rel=1e-6)


@pytest.mark.parametrize("base", ["roofline", "constant"])
def test_every_measured_point_is_itself(base):
    points = grid()
    assert all(Surface(points, base)(at) == value for at, value in points.items())


@pytest.mark.parametrize("base", ["roofline", "constant"])
def test_scattered_points_use_triangles(base):
    def law(n, k):
        return 1e-9 * n**0.8 * k**1.1

    points = {at: law(*at) for at in [(100, 100), (1000, 120), (130, 1000), (900, 800), (300, 350)]}
    surface = Surface(points, base)
    assert surface((500, 400)) == pytest.approx(law(500, 400), rel=0.25 if base == "roofline" else 1e-9)
    assert surface((100, 1000)) is None


@given(seed=st.integers(0, 10**6))
def test_triangles_agree_with_scipy(seed):
    generator = np.random.default_rng(seed)
    scattered = {
        tuple(int(s) for s in p): float(generator.uniform(1, 9)) for p in generator.integers(50, 5000, (15, 2))
    }
    reference = LinearNDInterpolator(np.log(list(scattered)), np.log(list(scattered.values())))
    surface = Surface(scattered, "constant")
    middle = tuple(int(s) for s in np.exp(np.log(list(scattered)).mean(axis=0)))
    with threadpool_limits(1):
        expected = float(np.exp(reference(np.log([middle]))[0]))
    assert np.isnan(expected) or surface(middle) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("sizes", "answered"),
    [((1100, 300), True), ((1200, 300), False), ((120, 600), True), ((600, 50), False), ((1024, 640), False)],
)
def test_reach_is_ten_percent(sizes, answered):
    value = Surface(grid())(sizes)
    assert (value is not None) == answered
    if value is not None:
        assert value == pytest.approx(bumpy(*sizes), rel=0.1)


def test_a_missing_corner_of_an_l_shape_is_not_invented():
    points = {at: bumpy(*at) for at in [(576, 576), (1536, 576), (576, 1536), (576, 900)]}
    assert Surface(points)((1536, 1536)) is None
    assert Surface(points)((576, 700)) is not None
    assert Surface(points)((590, 1500)) is not None


def test_one_point_answers_for_itself_and_its_neighbourhood():
    surface = Surface({(64,): 2e-6})
    assert surface((64,)) == 2e-6
    assert surface((66,)) == pytest.approx(2e-6, rel=0.1)
    assert surface((80,)) is None


def test_leave_one_out_by_hand():
    points = {(64,): 1.0, (128,): 3.0, (256,): 4.0, (512,): 16.0}
    found = [error for error, _ in Surface(points, "constant").held_out()]
    by_hand = [abs(math.sqrt(1.0 * 4.0) / 3.0 - 1), abs(math.sqrt(3.0 * 16.0) / 4.0 - 1)]
    assert found == pytest.approx(by_hand)
    assert Errors.of(found) == Errors(pytest.approx(np.median(by_hand)), max(found), max(found), 2)


def test_the_base_that_wins_leave_one_out_stays():
    assert best_surface(grid(lambda n, k: 5e-6 + 3e-10 * n * k))[0].base == "roofline"
    assert best_surface(grid(lambda n, k: 1e-9 * n**0.5 * k**1.5))[0].base == "constant"


def coarse(space: Space, phase) -> list[Op]:
    """Corners of every linear only, as the profiler's first stage measures them."""
    ops = space_ops(space, phase)
    q = [a * d for a in space.heads for d in space.head_size]
    kv = [space.kv_heads(a) * d for a in space.heads for d in space.head_size]
    axes = [(q, space.hidden), (kv, space.hidden), (space.hidden, q), (space.mlp, space.hidden)]
    axes += [(space.hidden, space.mlp), ([space.shape.vocab], space.hidden)]
    corners = {(n, k) for ns, ks in axes for n in (min(ns), max(ns)) for k in (min(ks), max(ks))}
    return [op for op in ops if op.kind != "linear" or (op.n, op.k) in corners]


def test_a_coarse_table_prices_the_whole_space():
    space = Space.default(SMOLLM)
    for phase in (WORKLOAD.decode, WORKLOAD.prefill):
        known = coarse(space, phase)
        lookup = Lookup.fit(frame(known), DEVICE)
        sources = set()
        for op in space_ops(space, phase):
            estimate = lookup.predict(op)
            sources.add(estimate.source)
            assert estimate.low <= estimate.value <= estimate.high
            assert estimate.value == pytest.approx(seconds(op), rel=0.02)
        assert sources == {"measured", "interpolated"}


def noisy(ops: list[Op], sigma: float):
    generator = np.random.default_rng(0)
    noise = {op: float(np.exp(sigma * generator.standard_normal())) for op in ops}
    return lambda op: seconds(op) * noise[op]


def test_intervals_hold_most_of_what_was_not_measured():
    space = Space.default(SMOLLM)
    every = [op for op in space_ops(space, WORKLOAD.decode) if op.kind == "linear"]
    known = every[::2]
    law = noisy(every, 0.05)
    lookup = Lookup.fit(frame(known, law), DEVICE)
    rest = []
    for op in set(every) - set(known):
        try:
            estimate = lookup.predict(op)
        except DataMiss:
            continue
        rest.append(estimate.low <= law(op) <= estimate.high)
    assert len(rest) > 60
    assert np.mean(rest) > 0.75
    assert np.median([errors.p90 for errors in lookup.loo.values()]) < 0.3


def attention(context: int, size: int = 64) -> Op:
    return Op("attention", 1, 9, 3, head_size=size, context=context)


def test_attention_between_contexts_and_head_sizes():
    known = [attention(c, s) for c in (16, 64, 256, 1024) for s in (32, 64)]
    lookup = Lookup.fit(frame(known), DEVICE)
    assert lookup.predict(attention(100)).value == pytest.approx(seconds(attention(100)), rel=0.02)
    assert lookup.predict(attention(100, 48)).value == pytest.approx(seconds(attention(100, 48)), rel=0.02)
    with pytest.raises(DataMiss, match="context=2048"):
        lookup.predict(attention(2048))
    with pytest.raises(DataMiss):
        lookup.predict(Op("attention", 1, 9, 9, head_size=64, context=64))


def test_norm_and_swiglu_over_their_width():
    lookup = Lookup.fit(frame([Op(kind, 1, 0, k) for kind in ("norm", "swiglu") for k in (256, 512, 1024)]), DEVICE)
    for kind in ("norm", "swiglu"):
        assert lookup.predict(Op(kind, 1, 0, 700)).value == pytest.approx(seconds(Op(kind, 1, 0, 700)), rel=0.01)


def test_measured_rows_carry_their_own_interval():
    op = linear(1, 256, 64, "w32")
    stable = Lookup.fit(frame([op]), DEVICE).predict(op)
    assert (stable.source, stable.low, stable.high) == (
        "measured",
        pytest.approx(0.99 * seconds(op)),
        pytest.approx(1.01 * seconds(op)),
    )
    unstable = Lookup.fit(frame([op], status="UNSTABLE", half_width=seconds(op) / 2), DEVICE).predict(op)
    assert unstable.spread == pytest.approx(0.5)


def test_what_the_device_cannot_run_is_said_in_its_own_words():
    ops, none = [linear(1, n, 64, "w32") for n in NS], [linear(1, n, 64, "w3a16g64") for n in NS]
    table = [frame(ops), frame(none, status="UNSUPPORTED", note="no 3-bit kernel", p10=None, half_width=None)]
    rows = table[0].astype(object)
    for row in table[1].astype(object).to_dict("records"):
        rows.loc[len(rows)] = row
    lookup = Lookup.fit(rows, DEVICE)
    for n in (128, 200):
        with pytest.raises(DataMiss, match="no 3-bit kernel"):
            lookup.predict(linear(1, n, 64, "w3a16g64"))
    with pytest.raises(DataMiss, match=r"measured: linear m=1 w32"):
        lookup.predict(linear(7, 128, 64, "w32"))


def test_another_device_is_never_borrowed():
    rows = frame([linear(1, 256, 64, "w32")])
    with pytest.raises(HwfitError, match="made-up"):
        Lookup.fit(rows, "made-down")
    with pytest.raises(HwfitError, match="hwfit profile"):
        Lookup.fit(rows.iloc[:0], DEVICE)
    foreign = frame([linear(1, 256, 64, "w32")], device="elsewhere")
    with pytest.raises(HwfitError, match="elsewhere"):
        Lookup.fit(foreign, DEVICE)


def test_intervals_widen_with_the_distance_to_what_was_measured():
    points = [linear(1, n, k, "w32") for n in (128, 256, 512, 16384) for k in KS]
    lookup = Lookup.fit(frame(points, noisy(points, 0.1)), DEVICE)
    assert lookup.loo[Family.of(points[0])].points >= 5
    near, far = lookup.predict(linear(1, 380, 64, "w32")), lookup.predict(linear(1, 3000, 64, "w32"))
    assert far.spread > 1.3 * near.spread
