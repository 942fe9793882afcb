from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_fixture import synthetic_drift, write_drift

from hwfit.errors import HwfitError
from hwfit.evaluate.drift_file import finite
from hwfit.evaluate.drift_file import write_drift as write_found
from hwfit.report.drift_file import read_drift, read_drifts
from hwfit.report.drift_view import drift_words, flip_drift, prediction_drift
from hwfit.report.results import read_results

NAME = "joint 6 ms"


def test_what_validate_writes_is_read_back(run_dir: Path) -> None:
    write_drift(run_dir, NAME)
    drifts = read_drifts(run_dir, read_results(run_dir))
    assert list(drifts) == [NAME]
    raw = synthetic_drift(NAME)
    again = json.loads(json.dumps(drifts[NAME].to_dict()))
    assert again.pop("does_not_prove")
    assert again == {key: value for key, value in raw.items() if key != "does_not_prove"}


def test_every_text_is_drawn_with_its_divergence(run_dir: Path) -> None:
    write_drift(run_dir, NAME)
    drift = read_drifts(run_dir, read_results(run_dir))[NAME]
    figure = prediction_drift(drift).to_dict()
    labels = figure["layout"]["yaxis"]["ticktext"]
    assert labels == [*drift.domains, *drift.languages, *drift.long]
    marks = [t for t in figure["data"] if t["mode"] == "markers"]
    left = [t for t in marks if t.get("xaxis", "x") == "x"]
    ratios = {labels[y]: x for t in left for x, y in zip(t["x"], t["y"], strict=True)}
    assert ratios["Swahili"] == pytest.approx(drift.languages["Swahili"].after / drift.languages["Swahili"].before)
    assert len({t["marker"]["symbol"] for t in marks}) == 6, "a filled and a hollow mark a kind"


def test_flips_are_shares_of_the_documents(run_dir: Path) -> None:
    write_drift(run_dir, NAME)
    drift = read_drifts(run_dir, read_results(run_dir))[NAME]
    bars = flip_drift(drift).to_dict()["data"]
    for i, f in enumerate(drift.flips.values()):
        assert sum(bar["x"][i] for bar in bars) == pytest.approx(100 * f.changed)


def test_the_verdict_is_in_words(run_dir: Path) -> None:
    write_drift(run_dir, NAME)
    drift = read_drifts(run_dir, read_results(run_dir))[NAME]
    assert "✗ breaks 1 limit." in drift_words(drift)
    assert "--max-kl 0.1" in drift_words(drift)
    drift.failures = [f"limit {i}" for i in range(7)]
    assert "<summary>and 2 more</summary><ul><li>limit 5</li><li>limit 6</li></ul>" in drift_words(drift)
    drift.failures = []
    assert "✓ within all limits" in drift_words(drift)


@pytest.mark.parametrize(
    ("part", "key", "value", "told"),
    [
        ("flips", "piqa", {"n": 0}, "of 0 documents"),
        ("domains", "law", {"before": 0.0}, "perplexities are from 1"),
        ("domains", "law", {"kl": "high"}, "must be a finite number"),
        ("domains", "law", {"kl_p99": -1.0}, "divergences from 0"),
        ("limits", "kl", -1.0, "must be from 0"),
        ("refusals", "unsafe", 0, "each must be above 0"),
    ],
)
def test_impossible_drift_is_refused(tmp_path: Path, part: str, key: str, value: object, told: str) -> None:
    raw = synthetic_drift(NAME)
    raw[part][key] = raw[part][key] | value if isinstance(value, dict) else value
    (tmp_path / "drift.json").write_text(json.dumps(raw))
    with pytest.raises(HwfitError, match=told):
        read_drift(tmp_path / "drift.json")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e31])
def test_a_broken_model_is_drawn_without_what_no_axis_holds(run_dir: Path, value: float) -> None:
    raw = synthetic_drift(NAME)
    raw["domains"]["law"] |= {"kl": value, "after": value}
    path = run_dir / "subnets" / NAME / "drift.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_found(path, finite(raw))
    drift = read_drifts(run_dir, read_results(run_dir))[NAME]
    labels = prediction_drift(drift).to_dict()["layout"]["yaxis"]["ticktext"]
    assert "law" not in labels
    assert "news" in labels
    assert "not drawn: law (domain)." in drift_words(drift)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "drift.json").write_text(json.dumps(synthetic_drift(NAME))[:200])
    with pytest.raises(HwfitError, match="cannot be read as JSON"):
        read_drift(tmp_path / "drift.json")
