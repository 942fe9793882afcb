from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hwfit.errors import HwfitError
from hwfit.report.results import read_results, write_results
from hwfit.subnet import Subnet


def test_reads_what_the_file_says(run_dir: Path, raw: dict) -> None:
    results = read_results(run_dir)
    assert [row.name for row in results.rows] == [row["name"] for row in raw["rows"]]
    assert results.picked is not None
    assert results.picked.name == "joint 6 ms"
    assert results.original is not None
    assert results.original.decode.measured == 0.0287
    assert results.blocks == 30
    for row, source in zip(results.rows, raw["rows"], strict=True):
        assert row.subnet == Subnet.from_json(json.dumps(source["subnet"]))
        assert row.decode.error == pytest.approx(source["decode"]["error"])
        assert row.accuracy["piqa"].n == 50
    assert results.workload.context == 128
    assert len(results.search) == 5


def test_written_results_read_back_equal(run_dir: Path, tmp_path: Path) -> None:
    results = read_results(run_dir)
    again = tmp_path / "again"
    written = json.loads(write_results(results, again).read_text())
    assert read_results(again) == results
    assert written["rows"][0]["decode"]["error"] == results.rows[0].decode.error


def test_over_budget_and_beats(run_dir: Path, raw: dict) -> None:
    raw["rows"][4]["budget"] = {"decode": 0.00743 / 1.1, "memory": raw["rows"][4]["size_bytes"] * 2}
    (run_dir / "results.json").write_text(json.dumps(raw))
    rows = {row.name: row for row in read_results(run_dir).rows}
    assert rows["joint 7.5 ms"].over_budget == pytest.approx({"decode": 0.1, "memory": -0.5})
    assert rows["original"].over_budget == {}
    assert rows["joint 6 ms"].beats(rows["uniform w4"], "decode")
    assert not rows["joint 6 ms"].beats(rows["uniform w8"], "decode")  # faster, but of higher perplexity


def test_mean_error_is_over_rows_with_a_prediction(run_dir: Path, raw: dict) -> None:
    for i, row in enumerate(raw["rows"]):
        row["decode"]["predicted"] = row["decode"]["measured"] * (1.1 if i % 2 else 0.8) if i < 2 else None
        row["prefill"].pop("predicted")
    (run_dir / "results.json").write_text(json.dumps(raw))
    results = read_results(run_dir)
    assert results.mean_error("decode") == pytest.approx(0.15)
    assert results.mean_error("prefill") is None


BREAKAGES: dict[str, tuple[Callable[[dict], object], str]] = {
    "missing field": (lambda r: r["rows"][3].pop("perplexity"), "results.rows[3].perplexity is missing"),
    "text for a number": (
        lambda r: r["rows"][1]["decode"].update(measured="fast"),
        "results.rows[1].decode.measured is 'fast'; it must be a number above 0",
    ),
    "negative time": (lambda r: r["rows"][1]["prefill"].update(low=-1), "rows[1].prefill.low is -1"),
    "not finite": (lambda r: r["rows"][0].update(perplexity=float("inf")), "rows[0].perplexity is inf"),
    "kind": (lambda r: r["rows"][2].update(kind="unifrom"), "did you mean uniform?"),
    "bool for a number": (lambda r: r["stages"][0].update(seconds=True), "stages[0].seconds is True"),
    "half a document": (lambda r: r["rows"][0]["accuracy"]["piqa"].update(n=1.5), "accuracy.piqa.n is 1.5"),
    "precision": (lambda r: r["rows"][5]["subnet"].update(lm_head="w5a8"), "precision 'w5a8' is unknown"),
    "not a list": (lambda r: r.update(rows={}), "results.rows is {}; it must be a list"),
    "no rows": (lambda r: (r["rows"].clear(), r["layers"].clear()), "at least one row"),
    "same name": (lambda r: r["rows"][1].update(name="original"), "'original' occurs 2 times"),
    "interval": (lambda r: r["rows"][1]["decode"].update(low=1.0), "decode interval has low 1.0 above high"),
    "budget": (lambda r: r["rows"][4]["budget"].update(decod=1.0), "budget 'decod' is unknown"),
    "layer of no row": (lambda r: r["layers"][0].update(row="origin"), "did you mean original?"),
    "machine": (lambda r: r["machine"].pop("name"), "machine.name is missing"),
}


@pytest.mark.parametrize("what", BREAKAGES)
def test_a_bad_file_is_refused_with_its_place(run_dir: Path, raw: dict, what: str) -> None:
    spoil, message = BREAKAGES[what]
    spoil(raw)
    (run_dir / "results.json").write_text(json.dumps(raw))
    with pytest.raises(HwfitError) as caught:
        read_results(run_dir)
    assert any(message in problem for problem in caught.value.problems), caught.value.problems
    assert all(str(run_dir / "results.json") in problem for problem in caught.value.problems)


def test_all_problems_are_told_at_once(run_dir: Path, raw: dict) -> None:
    for row in raw["rows"][:4]:
        row["size_bytes"] = None
    del raw["model"]
    (run_dir / "results.json").write_text(json.dumps(raw))
    with pytest.raises(HwfitError) as caught:
        read_results(run_dir)
    assert len(caught.value.problems) == 5


@pytest.mark.parametrize("content", ["", "{", '{"rows": [', "[]", "null"])
def test_truncated_or_foreign_json(run_dir: Path, content: str) -> None:
    (run_dir / "results.json").write_text(content)
    with pytest.raises(HwfitError, match=r"results\.json"):
        read_results(run_dir)


def test_missing_file_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(HwfitError, match="hwfit demo"):
        read_results(tmp_path)


def test_unknown_fields_are_ignored(run_dir: Path, raw: dict) -> None:
    before = read_results(run_dir)
    more = copy.deepcopy(raw) | {"future": 1}
    more["rows"][0]["energy"] = 2.0
    (run_dir / "results.json").write_text(json.dumps(more))
    assert read_results(run_dir) == before
