from __future__ import annotations

from pathlib import Path

from hwfit.report.blocks import block_map, kept_words, searched
from hwfit.report.results import Results, Row, read_results
from hwfit.subnet import LINEARS


def traces(results: Results, row: Row) -> list[dict]:
    return block_map(results, row).to_dict()["data"]


def test_every_kept_linear_is_one_cell_with_its_precision(run_dir: Path) -> None:
    results = read_results(run_dir)
    for row in searched(results):
        cells = {
            (x, round(base + 0.46)): text
            for t in traces(results, row)
            if str(t.get("name")).endswith("bits")
            for x, base, text in zip(t["x"], t["base"], t["hovertext"], strict=True)
        }
        expected = {
            (block, j): f"block {block} {LINEARS[j]}: {p}" + (", one scale a channel" if str(p) == "w8a8" else "")
            for block, line in zip(row.subnet.blocks, row.subnet.precision, strict=True)
            for j, p in enumerate(line)
        }
        assert cells == expected


def test_digits_say_the_bits_and_which_have_one_scale_a_channel(run_dir: Path) -> None:
    results = read_results(run_dir)
    row = searched(results)[1]
    digits = next(t for t in traces(results, row) if t.get("mode") == "text")
    expected = [
        f"<u>{p.weight_bits}</u>" if str(p) == "w8a8" else str(p.weight_bits)
        for line in row.subnet.precision
        for p in line
    ]
    assert list(digits["text"]) == expected
    assert "<u>8</u>" in expected
    assert "8" in expected


def test_dropped_blocks_are_hatched_and_widths_are_bars(run_dir: Path) -> None:
    results = read_results(run_dir)
    row = searched(results)[0]
    found = traces(results, row)
    gone = [t for t in found if t.get("name") == "dropped block"]
    assert [sorted(t["x"]) for t in gone] == [sorted(set(range(30)) - set(row.subnet.blocks))] * 2
    assert all(t["marker"]["pattern"]["shape"] == "/" for t in gone)
    widths = next(t for t in found if t.get("yaxis") == "y2" and t["name"].startswith("width"))
    assert dict(zip(widths["x"], widths["y"], strict=True)) == dict(zip(row.subnet.blocks, row.subnet.mlp, strict=True))


def test_words_compare_with_the_original_and_count_every_linear(run_dir: Path) -> None:
    results = read_results(run_dir)
    row = searched(results)[0]
    words = kept_words(results, row)
    assert "24 of 30 blocks, 512 of 576 wide, 9 of 9 heads of 64" in words
    assert f"{7 * 24} linears w8a8" in words
