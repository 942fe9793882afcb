from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_fixture import write_drift, write_logs

from hwfit.errors import HwfitError
from hwfit.report.page import page, write_report
from hwfit.report.results import read_results


class Outline(HTMLParser):
    """Headings, addresses the page would load and tag balance."""

    VOID = ("meta", "link", "img", "br", "input", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.loads: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.loads += [str(found[k]) for k in ("src", "data", "srcset") if k in found]
        self.loads += [str(found["href"])] if tag == "link" else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def test_write_report_makes_the_page_the_picture_and_the_tables(run_dir: Path) -> None:
    assert write_report(run_dir) == run_dir / "report.html"
    assert {p.name for p in run_dir.iterdir()} == {"results.json", "report.html", "pareto.png", "table.md", "table.csv"}


def test_the_page_is_whole_and_loads_nothing(run_dir: Path) -> None:
    text = page(read_results(run_dir))
    outline = Outline(text)
    assert outline.open == []
    assert outline.loads == []
    assert "@import" not in text.split("</style>")[0]
    assert outline.headings == [
        *("Trade-off in decode", "Trade-off in prefill", "All models", "Predicted against measured"),
        *("What is kept, at how many bits", "Where the time goes", "Drift from the original", "Stages of the run"),
        "Provenance",
    ]
    assert text == page(read_results(run_dir)), "the same results give the same page"


def figures(text: str) -> dict[str, dict]:
    found = re.findall(r'<div class="plot" id="([^"]+)"[^>]*><script type="application/json">(.*?)</script>', text)
    return {name: json.loads(data) for name, data in found}


def test_the_pareto_plots_hold_every_row_with_both_intervals(run_dir: Path) -> None:
    results = read_results(run_dir)
    plots = figures(page(results))
    for phase in ("decode", "prefill"):
        points = [t for t in plots[f"pareto-{phase}"]["data"] if "error_y" in t]
        for row, point in zip(results.rows, points, strict=True):
            timing = row.timing(phase)
            assert point["x"] == pytest.approx([timing.measured * 1e3])
            assert point["y"] == pytest.approx([row.perplexity])
            assert point["x"][0] + point["error_x"]["array"][0] == pytest.approx(timing.high * 1e3)
            assert point["y"][0] - point["error_y"]["arrayminus"][0] == pytest.approx(row.perplexity_low)
            assert row.name in point["hovertemplate"]
        notes = plots[f"pareto-{phase}"]["layout"]["meta"]
        assert {row.name for row in results.rows} <= {note["text"] for note in notes["wide"]}
        assert {f"<b>{i + 1}</b>" for i in range(len(results.rows))} <= {note["text"] for note in notes["narrow"]}


def test_logs_and_drift_of_a_run_get_sections(run_dir: Path, raw: dict) -> None:
    write_logs(run_dir, raw)
    write_drift(run_dir, "joint 6 ms")
    text = write_report(run_dir).read_text()
    assert "Over training" in Outline(text).headings
    assert {"training-0", "drift-0", "flips-0"} <= set(figures(text))
    assert "Not measured in this run" not in text


def test_what_is_wrong_with_logs_and_drift_is_told_at_once_and_nothing_written(run_dir: Path, raw: dict) -> None:
    write_logs(run_dir, raw)
    write_drift(run_dir, "joint 6 ms")
    (run_dir / "logs" / "search-joint 5 ms.csv").write_text("step,loss\n0,none\n")
    (run_dir / "subnets" / "joint 6 ms" / "drift.json").write_text('{"original": 3}')
    with pytest.raises(HwfitError) as error:
        write_report(run_dir)
    assert any("search-joint 5 ms.csv" in problem for problem in error.value.problems)
    assert any("drift.original is 3" in problem for problem in error.value.problems)
    assert not (run_dir / "report.html").exists()


def test_the_verdict_is_honest(run_dir: Path, raw: dict) -> None:
    picked = next(row for row in raw["rows"] if row["picked"])
    assert "No other model of this run is both faster" in page(read_results(run_dir))
    picked["perplexity"] = picked["perplexity_high"] = 80.0
    picked["decode"] |= {"measured": 0.0066, "high": 0.0067}
    (run_dir / "results.json").write_text(json.dumps(raw))
    text = page(read_results(run_dir))
    assert "misses its decode budget: measured +10.0 % against it" in text
    assert "lower perplexity: architecture, then w8, joint 6.5 ms, joint 5 ms, joint 4 ms." in text


def test_names_cannot_smuggle_markup(run_dir: Path, raw: dict) -> None:
    evil = "</script><script>alert(1)</script>"
    old = raw["rows"][4]["name"]
    raw["rows"][4]["name"] = evil
    for layer in raw["layers"]:
        layer["row"] = evil if layer["row"] == old else layer["row"]
    raw["model"] = raw["search"][0]["budget_name"] = raw["stages"][0]["name"] = evil
    raw["machine"]["name"] = raw["provenance"][evil] = evil
    (run_dir / "results.json").write_text(json.dumps(raw))
    text = page(read_results(run_dir))
    assert "<script>alert" not in text
    assert Outline(text).open == []


@pytest.mark.parametrize("kind", ["original", "joint"])
def test_one_bare_row_is_enough(run_dir: Path, raw: dict, kind: str) -> None:
    row = raw["rows"][6]
    row |= {"kind": kind, "budget": None, "accuracy": {}, "picked": kind == "joint"}
    for key in ("accuracy_mean", "accuracy_stderr"):
        row[key] = None
    for phase in ("decode", "prefill"):
        row[phase] |= {"predicted": None, "raw": None, "error": None}
    bare = {key: raw[key] for key in ("model", "created", "machine", "workload")}
    (run_dir / "results.json").write_text(json.dumps({**bare, "rows": [row]}))
    outline = Outline(write_report(run_dir).read_text())
    assert outline.open == []
    assert "Predicted against measured" not in outline.headings
    assert "Over training" not in outline.headings


def test_bad_results_write_nothing(run_dir: Path) -> None:
    (run_dir / "results.json").write_text("{}")
    with pytest.raises(HwfitError):
        write_report(run_dir)
    assert [p.name for p in run_dir.iterdir()] == ["results.json"]


def test_what_got_slower_is_said_to_be_more(run_dir: Path, raw: dict) -> None:
    picked = next(row for row in raw["rows"] if row["picked"])
    picked["prefill"] |= {"measured": 0.574, "high": 0.6}
    (run_dir / "results.json").write_text(json.dumps(raw))
    text = page(read_results(run_dir))
    assert "2.0× more than 287 ms" in text
    assert "4.8× less than 28.7 ms" in text
