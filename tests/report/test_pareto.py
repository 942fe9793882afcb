from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

from hwfit.report.canvas import NARROW, Canvas
from hwfit.report.labels import overlap
from hwfit.report.pareto import _limit_boxes, named, pareto
from hwfit.report.results import read_results


def test_words_of_close_budgets_stand_below_each_other(run_dir: Path) -> None:
    canvas = Canvas(pareto(read_results(run_dir), "decode"), NARROW)
    boxes = _limit_boxes(canvas, [0.004, 0.006, 0.0061, 0.0062, 0.0065, 0.0075])
    assert all(overlap(a, b) == 0 for a, b in combinations(boxes, 2))
    tops = [box[3] for box in boxes]
    assert tops[0] == tops[1] == tops[5] == canvas.frame[3]
    assert tops[1] > tops[2] > tops[3]


def test_long_names_give_way_to_numbers(run_dir: Path, raw: dict) -> None:
    results = read_results(run_dir)
    assert named(results)
    raw["rows"][0]["name"] = "original under 120 MB of memory at batch 8"
    raw["layers"] = []
    (run_dir / "results.json").write_text(json.dumps(raw))
    results = read_results(run_dir)
    notes = pareto(results, "decode").to_dict()["layout"]["meta"]
    assert [n["text"] for n in notes["wide"] if "name" in n] == [f"<b>{i}</b>" for i in range(1, 10)]
