from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwfit.report.labels import Box, overlap, place_labels
from hwfit.report.plots import pareto_figure, pareto_png
from hwfit.report.results import Results, read_results
from hwfit.workload import PHASES, PhaseName


def squeezed(run_dir: Path, raw: dict, share: float) -> Results:
    """The run with every joint row pulled towards the first, so that the points crowd."""
    first = raw["rows"][4]
    for row in raw["rows"][5:]:
        for key in ("measured", "low", "high", "predicted"):
            row["decode"][key] = first["decode"][key] * (row["decode"][key] / first["decode"][key]) ** share
        for key in ("perplexity", "perplexity_low", "perplexity_high"):
            row[key] = first[key] * (row[key] / first[key]) ** share
    (run_dir / "results.json").write_text(json.dumps(raw))
    return read_results(run_dir)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("share", [1.0, 0.2])
def test_names_cover_neither_each_other_nor_the_edge(run_dir: Path, raw: dict, phase: PhaseName, share: float) -> None:
    results = squeezed(run_dir, raw, share)
    figure = pareto_figure(results, phase)
    axes = figure.axes[0]
    names = {row.name for row in results.rows}
    boxes = {t.get_text(): t.get_window_extent() for t in axes.texts if t.get_text() in names}
    assert set(boxes) == names
    for (a, box_a), (b, box_b) in combinations(boxes.items(), 2):
        assert not box_a.overlaps(box_b), f"{a} covers {b}"
    for name, box in boxes.items():
        assert axes.bbox.x0 <= box.x0, name
        assert box.x1 <= axes.bbox.x1, name
        assert axes.bbox.y0 <= box.y0, name
        assert box.y1 <= axes.bbox.y1, name


def test_every_measured_point_is_drawn_with_its_interval(run_dir: Path) -> None:
    results = read_results(run_dir)
    axes = pareto_figure(results).axes[0]
    assert len(axes.containers) == len(results.rows)
    for row, bars in zip(results.rows, axes.containers, strict=True):
        mark, _, (across, up) = bars.lines
        assert mark.get_xdata()[0] == pytest.approx(row.decode.measured * 1e3)
        assert mark.get_ydata()[0] == pytest.approx(row.perplexity)
        (left, _), (right, _) = across.get_segments()[0]
        assert (left, right) == pytest.approx((row.decode.low * 1e3, row.decode.high * 1e3))
        (_, bottom), (_, top) = up.get_segments()[0]
        assert (bottom, top) == pytest.approx((row.perplexity_low, row.perplexity_high))


def test_kinds_have_different_markers(run_dir: Path) -> None:
    results = read_results(run_dir)
    bars = pareto_figure(results).axes[0].containers
    markers = {row.kind: b.lines[0].get_marker() for row, b in zip(results.rows, bars, strict=True)}
    assert len(set(markers.values())) == 4


def test_the_png_is_reproducible(run_dir: Path) -> None:
    results = read_results(run_dir)
    first = pareto_png(results)
    assert first.startswith(b"\x89PNG")
    assert first == pareto_png(results)


FRAME: Box = (0.0, 0.0, 900.0, 600.0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(60, 840), st.floats(60, 540)), min_size=1, max_size=8))
def test_placed_labels_do_not_overlap_and_stay_inside(anchors: list[tuple[float, float]]) -> None:
    boxes = place_labels(anchors, [(80.0, 16.0)] * len(anchors), [], FRAME)
    for a, b in combinations(boxes, 2):
        assert overlap(a, b) < 1e-6
    for box in boxes:
        assert overlap(box, FRAME) == pytest.approx(80 * 16)


def test_a_label_keeps_off_an_obstacle() -> None:
    obstacle: Box = (300.0, 200.0, 420.0, 400.0)
    (box,) = place_labels([(305.0, 300.0)], [(60.0, 16.0)], [obstacle], FRAME)
    assert overlap(box, obstacle) == 0
    assert box[2] <= 300, "the free side is the left one"
