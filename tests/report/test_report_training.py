from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_fixture import write_logs

from hwfit.errors import HwfitError
from hwfit.report.results import read_results
from hwfit.report.training import panels, read_curves, training


def test_without_logs_the_results_tell_the_first_budget(run_dir: Path, raw: dict) -> None:
    curves = read_curves(run_dir, read_results(run_dir))
    assert [c.row for c in curves] == [row["name"] for row in raw["rows"] if row["kind"] == "joint"]
    steps = raw["search"][0]["steps"]
    assert curves[0].values["slack_decode"] == pytest.approx([1 - s["expected"] / s["budget"] for s in steps])
    assert curves[0].values["entropy"] == pytest.approx([s["entropy"] for s in steps])
    assert [p.quantity for p in panels(curves)] == ["loss", "slack_decode", "entropy", "multiplier_decode"]


def test_logs_tell_every_budget_and_the_distillation(run_dir: Path, raw: dict) -> None:
    write_logs(run_dir, raw)
    curves = read_curves(run_dir, read_results(run_dir))
    assert [(p.stage, p.quantity) for p in panels(curves)] == [
        *(("search", q) for q in ("loss", "slack_decode", "slack_memory", "entropy")),
        *(("search", q) for q in ("multiplier_decode", "multiplier_memory")),
        ("distil", "loss"),
    ]
    memory = training(curves, panels(curves)[2]).to_dict()["data"]
    drawn = [t for t in memory if t.get("meta")]
    assert [t["meta"]["row"] for t in drawn] == [c.row for c in curves if c.stage == "search"]
    assert drawn[0]["y"][0] == pytest.approx(-20)
    assert len({t["line"]["dash"] for t in drawn}) == len(drawn)


def test_a_line_keeps_its_look_in_every_panel(run_dir: Path, raw: dict) -> None:
    write_logs(run_dir, raw)
    curves = read_curves(run_dir, read_results(run_dir))
    looks: dict[str, set[str]] = {}
    for panel in panels(curves):
        for trace in training(curves, panel).to_dict()["data"]:
            if trace.get("meta"):
                looks.setdefault(trace["meta"]["row"], set()).add(trace["line"]["dash"] + trace["line"]["color"])
    assert all(len(found) == 1 for found in looks.values())


def test_a_single_step_is_a_mark(run_dir: Path, raw: dict) -> None:
    for run in raw["search"]:
        run["steps"] = run["steps"][:1]
    (run_dir / "results.json").write_text(json.dumps(raw))
    curves = read_curves(run_dir, read_results(run_dir))
    assert all("markers" in t["mode"] for t in training(curves, panels(curves)[0]).to_dict()["data"])


@pytest.mark.parametrize("text", ["step,loss\n0,x\n", "loss\n0.5\n", "step,loss\n0\n", "step,loss\n0,nan\n"])
def test_damaged_logs_are_refused(run_dir: Path, text: str) -> None:
    (run_dir / "logs").mkdir()
    (run_dir / "logs" / "distil-joint 6 ms.csv").write_text(text)
    with pytest.raises(HwfitError, match=r"distil-joint 6 ms\.csv"):
        read_curves(run_dir, read_results(run_dir))
