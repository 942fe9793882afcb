from __future__ import annotations

import json
from pathlib import Path

from hwfit.report.filters import budget_state, filters
from hwfit.report.provenance import provenance
from hwfit.report.results import read_results


def test_states_are_as_measured(run_dir: Path) -> None:
    states = {row.name: budget_state(row) for row in read_results(run_dir).rows}
    assert states["original"] == "none"
    assert states["joint 6 ms"] == "kept"  # 5.92 ms
    assert states["joint 5 ms"] == "missed"  # 5.04 ms


def test_every_kind_and_state_has_a_box_with_its_count(run_dir: Path) -> None:
    form = filters(read_results(run_dir))
    for words in ("original (1)", "uniform bits (2)", "joint search (5)", "budget kept (5)", "budget missed (1)"):
        assert words in form


def test_rows_that_are_all_alike_need_no_filter(run_dir: Path, raw: dict) -> None:
    raw["rows"] = [row for row in raw["rows"] if row["name"] == "joint 6 ms"]
    raw["layers"] = []
    (run_dir / "results.json").write_text(json.dumps(raw))
    assert "<form" not in filters(read_results(run_dir))


def test_settings_in_provenance_are_unfolded() -> None:
    html = provenance({"settings": json.dumps({"search": {"steps": 24}, "long": "x" * 300}), "device": None})
    assert "<dt>search</dt><dd>steps: 24</dd>" in html
    assert "2 entries" in html
    assert "<dd>not known</dd>" in html
