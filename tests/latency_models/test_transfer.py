"""Decisions of one device made with another's table: scores against hand-made ones, and a known pair calibrated."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from hwfit.cli import app
from hwfit.errors import HwfitError
from hwfit.kernels.op import linear
from hwfit.latency_models.calibrate import NOISE, _inputs, _kernel, calibrated, shots
from hwfit.latency_models.features import roofline
from hwfit.latency_models.transfer import Agreement, Pair, Source, agreement, holds, sign, verdict
from hwfit.latency_models.transfer_curve import curve
from hwfit.latency_models.transfer_subnets import front_regret
from hwfit.lut_store.facts import KEY, Facts
from hwfit.lut_store.schema import Measurement, RunInfo
from hwfit.lut_store.table import Table
from hwfit.precision import Precision
from hwfit.subnet import ModelShape

A = Facts(1e12, 1e14, 2e14, multiprocessors=100, memory=80 << 30, l2=40 << 20)
B = Facts(4e12, 2e14, 4e14, multiprocessors=130, memory=80 << 30, l2=60 << 20)
NAMES = ("w16a16", "w4a16", "w8a8")
MS, WIDTHS = (1, 4, 16, 64, 512), (256, 512, 1024, 2048, 4096)
SMALL = ModelShape(hidden=2048, heads=16, kv_heads=4, head_size=128, mlp=4096, blocks=4, vocab=1000)
DRIFT = {"w16a16": 1.0, "w4a16": 1.6, "w8a8": 0.7}  # how well B's kernels do compared with A's


def seconds(m: int, n: int, k: int, name: str, facts: Facts) -> float:
    memory, compute = roofline(np.array([[m, n, k]], float), Precision.parse(name), facts)
    kernels = DRIFT[name] if facts is B else 1.0
    return float(5e-6 + kernels * np.hypot(memory, compute)[0])


def source(device: str, facts: Facts, scale: float = 1.0, names=NAMES) -> Source:
    rows = [
        {"kind": "linear", "m": m, "n": n, "k": k, "precision": p, "p10": scale * seconds(m, n, k, p, facts)}
        for m, n, k, p in product(MS, WIDTHS, WIDTHS, names)
    ]
    return Source(device, pd.DataFrame(rows), facts)


def hand_made() -> Pair:
    """Two cells of one row: A is right about the first and wrong about the second."""
    a = np.array([[2.0, 1.0, 4.0], [2.0, 1.0, 3.0]])
    b = np.array([[4.0, 1.0, 8.0], [1.0, 2.0, 0.5]])
    return Pair(np.array([[1.0, 64, 64], [1, 128, 64]]), tuple(map(Precision.parse, NAMES)), a, b, A, B)


def test_scores_by_hand():
    pair = hand_made()
    (one,) = agreement(pair, pair.a)
    assert one.regime == "m1"
    assert one.regret == pytest.approx((0 + (2.0 / 0.5 - 1)) / 2)
    assert one.sign == pytest.approx(2 / 4)  # speed-ups 2, 1/2, 2, 2/3 against 4, 1/2, 1/2, 2
    assert one.same_fastest == 0.5
    (perfect,) = agreement(pair, pair.b)
    assert (perfect.regret, perfect.sign, perfect.speedup_rank, perfect.latency_rank) == (0, 1, 1, 1)


def test_what_a_device_lacks_is_neither_chosen_nor_counted():
    pair = hand_made()
    gone = np.array([[False, True, False], [False, False, False]])
    less = replace(pair, a=np.where(gone, np.nan, pair.a), b=np.where(gone, np.nan, pair.b))
    (one,) = agreement(less, less.a)
    assert one.regret == pytest.approx(3.0 / 2)  # of the first cell only w16a16 and w8a8 are left, and A is right
    assert one.sign == pytest.approx(1 / 3)


@pytest.mark.parametrize("scale", [0.1, 1.0, 7.0])
def test_a_device_that_is_only_faster_holds(scale):
    found = curve(source("a", A), source("b", A, scale), (), (0,), SMALL)
    assert found.verdict == "holds"
    assert found.points[0].subnets == {1: 0.0, 512: 0.0}


def test_few_measurements_find_how_kernels_differ():
    pair = Pair.of(source("a", A), source("b", B))
    before, after = (agreement(pair, calibrated(pair, shots(pair, count)).seconds) for count in (0, 40))
    assert not holds(before)
    assert max(one.regret for one in after) < 0.3 * max(one.regret for one in before)
    guess = calibrated(pair, shots(pair, 40))
    errors = np.abs(np.log(guess.seconds / pair.b))
    assert np.median(errors) < 0.03
    assert np.mean(errors <= guess.half_width) > 0.85


def test_a_relative_replaces_measurements():
    moods = np.exp(0.3 * np.random.default_rng(0).standard_normal(len(MS) * len(WIDTHS) ** 2 * len(NAMES)))
    moody, twin = (
        replace(s, frame=s.frame.assign(p10=s.frame["p10"] * moods)) for s in (source("b", B), source("t", B))
    )
    alone = Pair.of(source("a", A), moody)
    helped = Pair.of(source("a", A), moody, (twin,))
    assert [o.device for o in helped.others] == ["t"]
    errors = [np.median(np.abs(np.log(calibrated(p, shots(p, 12)).seconds / p.b))) for p in (alone, helped)]
    assert errors[0] > 0.1
    assert errors[1] < 0.3 * errors[0]


def test_a_relative_without_all_cells_is_left_out():
    part = source("part", B)
    pair = Pair.of(source("a", A), source("b", B), (replace(part, frame=part.frame.iloc[1:]),))
    assert pair.others == ()


def test_choice_of_measurements_reduces_the_variance_of_all():
    """Against the plain formula of a Gaussian process' posterior variance."""
    pair = Pair.of(source("a", A), source("b", B))
    inputs = _inputs(pair)
    everything = _kernel(inputs, inputs)

    def left(rows: np.ndarray) -> float:
        cross = everything[:, rows]
        inner = np.linalg.inv(everything[np.ix_(rows, rows)] + NOISE * np.eye(len(rows)))
        return float((np.diag(everything) - np.einsum("ij,jk,ik->i", cross, inner, cross)).mean())

    assert np.linalg.eigvalsh(everything).min() > -1e-8
    chosen = shots(pair, 15)
    assert len(np.unique(chosen, axis=0)) == 15
    ours = left(chosen[:, 0] * len(NAMES) + chosen[:, 1])
    generator = np.random.default_rng(1)
    assert ours < min(left(generator.choice(len(everything), 15, False)) for _ in range(20))


def test_leave_one_out_widths_are_those_of_refitting():
    pair = Pair.of(source("a", A), source("b", B))
    chosen = shots(pair, 12)
    errors = []
    for i in range(len(chosen)):
        guess = calibrated(pair, np.delete(chosen, i, 0)).seconds[tuple(chosen[i])]
        errors.append(abs(np.log(guess / pair.b[tuple(chosen[i])])))
    assert calibrated(pair, chosen).half_width == pytest.approx(max(errors), rel=1e-6)


def test_measured_cells_are_as_measured():
    pair = Pair.of(source("a", A), source("b", B))
    chosen = shots(pair, 20)
    i, j = chosen.T
    assert (calibrated(pair, chosen).seconds[i, j] == pair.b[i, j]).all()


def test_front_is_scored_on_the_other_device():
    pair = Pair.of(source("a", A), source("b", B))
    assert front_regret(pair, pair.b, SMALL, 1) == 0
    assert front_regret(pair, pair.a, SMALL, 1) > 0.01


def test_verdict():
    good, bad = (Agreement("m1", 10, 1, 1, s, 1, r, r) for s, r in ((0.95, 0.01), (0.8, 0.1)))
    assert verdict({0: [good]}, "b") == "holds"
    assert verdict({0: [bad], 10: [bad], 50: [good], 200: [good]}, "b") == "holds after 50 measurements on b"
    assert verdict({0: [bad], 50: [bad]}, "b") == "does not hold; profile b"
    assert sign([good, bad]) == pytest.approx(0.875)
    assert not holds([good, bad])


def test_devices_with_too_little_in_common():
    with pytest.raises(HwfitError, match="two are needed"):
        Pair.of(source("a", A), source("b", B, names=("w8a8",)))
    few = source("b", B)
    few = replace(few, frame=few.frame[few.frame["n"] == 256].iloc[:60])
    with pytest.raises(HwfitError, match="at least 50"):
        Pair.of(source("a", A), few)
    with pytest.raises(HwfitError, match=r"--shots 1000: b shares 375 cells; allowed: 0 to 187"):
        curve(source("a", A), source("b", B), (), (10, 1000), SMALL)


def write(table: Table, device: str, facts: Facts) -> None:
    about = {"fingerprint": {KEY: facts.to_dict()}, "versions": {}, "commit": "", "load": 0.0, "started": 1.0}
    run = RunInfo(run_id=device, device=device, **about)
    ops = [linear(m, n, k, p) for m, n, k, p in product(MS, WIDTHS, WIDTHS, NAMES)]
    rows = [
        Measurement(
            op=o,
            status="OK",
            device=device,
            backend="test",
            run_id=device,
            p10=seconds(o.m, o.n, o.k, o.precision, facts),
        )
        for o in ops
    ]
    table.append(rows, run)


def test_command(tmp_path):
    table = Table(tmp_path / "table")
    write(table, "gpu-a", A)
    write(table, "gpu-b", B)
    picture = tmp_path / "curve.png"
    call = ["transfer", "gpu-a", "gpu-b", "--tables", str(table.path), "--shots", "0", "--shots", "40"]
    done = CliRunner().invoke(app, [*call, "--out", str(picture)])
    assert done.exit_code == 0, done.output
    assert "gpu-a -> gpu-b: " in done.output
    assert "no other device" in done.output
    assert picture.read_bytes()[:4] == b"\x89PNG"
    wrong = CliRunner().invoke(app, ["transfer", "gpu-a", "gpu-c", "--tables", str(table.path)])
    assert isinstance(wrong.exception, HwfitError)
    assert "B gpu-c is not in table" in str(wrong.exception)
    both = CliRunner().invoke(app, [*call, "--shots", "-1", "--out", "curve.pdf"])
    assert isinstance(both.exception, HwfitError)
    assert [p.split()[0] for p in both.exception.problems] == ["--shots", "--out"]
