"""Prices from a dense table: what was measured, what was predicted and how surely, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gpu_table import DEVICE, MS, WIDTHS, attention_seconds, true_seconds, write_table

from hwfit.errors import HwfitError
from hwfit.kernels.op import Op, linear
from hwfit.latency_models import contenders, fitted
from hwfit.latency_models import verdict as verdicts
from hwfit.latency_models.advise import advise, uniform_seconds
from hwfit.latency_models.cells import REGIMES, Cells
from hwfit.latency_models.estimate import DataMiss
from hwfit.latency_models.fitted import Fitted
from hwfit.latency_models.load import load_latency, load_prices
from hwfit.latency_models.verdict import Verdict
from hwfit.latency_models.whole import sum_ops
from hwfit.lut_store.facts import facts_of
from hwfit.precision import Precision
from hwfit.subnet import ModelShape, Subnet
from hwfit.workload import Workload

UNMEASURED = [(WIDTHS[i], WIDTHS[(3 * i + 2) % 9]) for i in range(1, 8)]
SHAPE = ModelShape(2048, 32, 8, 128, 8192, 4, 8192)


@pytest.fixture(scope="module", autouse=True)
def one_bag() -> Iterator[None]:
    """A contest's twenty fits in a third of the time; test_contest fits all bags."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contenders, "BAGS", 1)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("t")
    write_table(path, noise=0.01)
    return path


@pytest.fixture(scope="module")
def prices(folder: Path) -> Fitted:
    table = write_table(folder / "sub", noise=0.01)
    frame = table.read(DEVICE)
    known = [(n, k) not in UNMEASURED for n, k in zip(frame["n"], frame["k"], strict=True)]
    return Fitted(DEVICE, frame[known], facts_of(table, DEVICE), table.path)


def test_measured_cells_are_read(prices: Fitted) -> None:
    estimate = prices.predict(linear(8, 2048, 4096, "w4a16"))
    assert estimate.source == "measured"
    assert estimate.value == pytest.approx(true_seconds(linear(8, 2048, 4096, "w4a16")), rel=0.05)


def test_other_shapes_are_predicted_with_intervals(prices: Fitted) -> None:
    ops = [linear(m, n, k, "w4a16") for n, k in UNMEASURED for m in MS]
    found = [prices.predict(op) for op in ops]
    assert {estimate.source for estimate in found} == {"predicted"}
    inside = [e.low < true_seconds(op) < e.high for op, e in zip(ops, found, strict=True)]
    assert sum(inside) >= 0.75 * len(ops), "nine in ten, as a rule"
    errors = [abs(e.value / true_seconds(op) - 1) for op, e in zip(ops, found, strict=True)]
    assert float(np.median(errors)) < 0.1


def test_beyond_the_table_the_interval_widens_and_says_so(prices: Fitted) -> None:
    inside, outside = (prices.predict(linear(8, n, 5120, "w4a16")) for n in (7168, 32768))
    assert (inside.source, outside.source) == ("predicted", "extrapolated")
    assert outside.spread > 2 * inside.spread


def test_attention_is_interpolated_between_the_same_heads(prices: Fitted) -> None:
    for op in (
        Op("attention", 3, 32, 8, head_size=128, context=700),
        Op("attention", 3 * 200, 32, 8, head_size=128, context=200),
    ):
        assert prices.predict(op).value == pytest.approx(attention_seconds(op), rel=0.15)
    for op in (
        Op("attention", 3, 16, 8, head_size=128, context=700),
        Op("attention", 3, 32, 8, head_size=128, context=9000),
    ):
        with pytest.raises(DataMiss, match=r"measured .heads, KV heads, size.: ..32, 8, 128"):
            prices.predict(op)


def test_what_no_table_has_comes_from_the_data_sheet_and_says_so(prices: Fitted) -> None:
    estimate = prices.predict(Op("norm", 128, 0, 4096))
    assert estimate.source == "data sheet"
    assert estimate.high / estimate.low == pytest.approx(4.0)


def test_unknown_precisions_are_refused(prices: Fitted) -> None:
    with pytest.raises(DataMiss, match="no measured linear at w8a8; measured: w16a16, w4a16"):
        prices.predict(linear(8, 2560, 5120, "w8a8"))


def test_a_contest_is_kept_for_the_same_cells_only(
    prices: Fitted, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = prices.verdict("w4a16")
    table = facts_of, folder / "sub"

    def no_contest(*args: object, **kwargs: object) -> None:
        raise AssertionError("judged again")

    monkeypatch.setattr(fitted, "hold_out", no_contest)
    again = Fitted(DEVICE, prices.frame, prices.facts, table[1])
    assert again.verdict("w4a16") == verdict
    changed = prices.frame.assign(p10=prices.frame["p10"] * 1.01)
    with pytest.raises(AssertionError, match="judged again"):
        Fitted(DEVICE, changed, prices.facts, table[1]).verdict("w4a16")
    path = next((table[1] / verdicts.FOLDER).glob("*w4a16.json"))
    text = path.read_text()
    right = json.loads(text)
    wrong = [{"half_widths": {}}, {"half_widths": {"a row": "NaN"}}, {"median": -1}, {"within10": 10**400}]
    for damaged in (text[:40], "[" * 100_000, *(json.dumps(right | change) for change in wrong)):
        path.write_text(damaged)
        with pytest.raises(AssertionError, match="judged again"):
            Fitted(DEVICE, prices.frame, prices.facts, table[1]).verdict("w4a16")
    path.write_text(text)


def test_a_shipped_verdict_serves_the_very_cells(
    prices: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts, "shipped_contests", lambda: tmp_path / "shipped")
    told = Verdict("nearest", 0.5, 0.25, {"m1": 0.7})
    cells = Cells.of(prices.frame, "w4a16", prices.facts)
    verdicts.write_verdict(tmp_path / "shipped", DEVICE, cells, told)
    assert Fitted(DEVICE, prices.frame, prices.facts, tmp_path).verdict("w4a16") == told
    judged = Verdict("roofline", 0.1, 0.5, {"m1": 0.2})
    monkeypatch.setattr(fitted, "judge", lambda device, cells: judged)
    changed = prices.frame.assign(p10=prices.frame["p10"] * 1.01)
    assert Fitted(DEVICE, changed, prices.facts, tmp_path).verdict("w4a16") == judged
    other = replace(prices.facts, bandwidth=2 * prices.facts.bandwidth)
    assert Fitted(DEVICE, prices.frame, other, tmp_path).verdict("w4a16") == judged


@pytest.mark.parametrize("path", sorted(verdicts.shipped_contests().iterdir()), ids=lambda path: path.stem)
def test_what_ships_can_be_read(path: Path) -> None:
    found = verdicts.parse_verdict(path.read_text(encoding="utf-8"))
    assert found
    assert found[1].contender in fitted.ENTERED
    assert found[1].half_widths.keys() == set(REGIMES)
    assert all(0 < half < 1 for half in found[1].half_widths.values())


def test_whole_models_are_sums_and_their_intervals_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwfit.latency_models.load.DENSE", 100)
    latency = load_latency(DEVICE, folder)
    assert isinstance(load_prices(DEVICE, folder), Fitted)
    subnet, phase = Subnet.whole(SHAPE, "w4a16", "w16a16"), Workload(context=256).decode
    whole, ops = latency.predict(subnet, phase), sum_ops(latency.lookup, subnet, phase)
    assert whole.value == pytest.approx(ops.value)
    assert whole.low < whole.value < whole.high


def test_advice_ranks_precisions_and_tells_what_gets_slower(prices: Fitted) -> None:
    w16, w4 = Precision.parse("w16a16"), Precision.parse("w4a16")
    found = advise(prices.predict, SHAPE, Workload(prompt=1024, context=256), [w16, w4, Precision.parse("w8a8")], w16)
    by = {(one.phase, one.name): one for one in found}
    gate = by["decode", "gate/up_proj"]
    assert gate.count == 2 * SHAPE.blocks
    assert gate.fastest.precision == w4
    truth = true_seconds(linear(1, 8192, 2048, "w16a16")) / true_seconds(linear(1, 8192, 2048, "w4a16"))
    assert gate.fastest.speedup == pytest.approx(truth, rel=0.1)
    assert gate.fastest.saved == 8192 * 2048 * 2 - w4.weight_bytes(8192, 2048)
    assert any("w8a8" in reason for reason in gate.missing)
    decode = uniform_seconds(found, w4, "decode")
    assert decode is not None
    assert decode < (uniform_seconds(found, w16, "decode") or 0)
    assert uniform_seconds(found, Precision.parse("w8a8"), "decode") is None


def test_advice_without_a_baseline_says_what_is_missing(prices: Fitted) -> None:
    with pytest.raises(HwfitError, match="no baseline w8a8 to compare with"):
        advise(prices.predict, SHAPE, Workload(), [Precision.parse("w4a16")], Precision.parse("w8a8"))
