"""The line of the trade-off plots joins what no other beats beyond the intervals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwfit.report.dominance import beaten_rows, joint_front
from hwfit.report.pareto import pareto
from hwfit.report.plots import pareto_figure
from hwfit.report.results import Results, read_results


@pytest.fixture
def spoilt(run_dir: Path, raw: dict) -> Results:
    """`joint 5 ms` became slower than `joint 6 ms` and much worse; `joint 6.5 ms` is a hair worse than `joint 6 ms`."""
    rows = {row["name"]: row for row in raw["rows"]}
    rows["joint 5 ms"]["decode"] |= {"measured": 6.2e-3, "low": 6.1e-3, "high": 6.3e-3}
    rows["joint 6.5 ms"] |= {"perplexity": 28.9, "perplexity_low": 27.0, "perplexity_high": 31.0}
    rows["joint 6.5 ms"]["decode"] |= {"measured": 5.95e-3, "low": 5.8e-3, "high": 6.0e-3}
    (run_dir / "results.json").write_text(json.dumps(raw))
    return read_results(run_dir)


def test_only_what_is_worse_beyond_the_intervals_leaves_the_front(spoilt: Results):
    assert [row.name for row in joint_front(spoilt, "decode")] == [
        "joint 4 ms", "joint 6 ms", "joint 6.5 ms", "joint 7.5 ms",
    ]  # fmt: skip
    beaten = beaten_rows(spoilt, "decode")
    assert beaten["joint 5 ms"] in {"joint 6 ms", "joint 6.5 ms"}
    assert "joint 6.5 ms" not in beaten
    assert beaten["uniform w4"] in {"joint 6 ms", "joint 6.5 ms", "joint 7.5 ms"}


def test_both_pictures_leave_it_off_the_line_and_say_so(spoilt: Results):
    figure = pareto(spoilt, "decode")
    lines = [trace for trace in figure.data if trace.mode == "lines" and len(trace.x) > 2]
    assert [round(x, 2) for x in lines[0].x] == [3.93, 5.92, 5.95, 7.43]
    told = [t.hovertemplate for t in figure.data if t.hovertemplate and "joint 5 ms" in t.hovertemplate]
    assert all("beaten beyond the intervals by joint 6" in hover for hover in told)
    assert told
    axes = pareto_figure(spoilt).axes[0]
    assert any(len(line.get_xdata()) == 4 for line in axes.lines)
