from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hwfit.report import text
from hwfit.report.results import read_results
from hwfit.report.table import csv_text, markdown, rich_table


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_table_fits_and_shows_every_figure(run_dir: Path, width: int) -> None:
    out = io.StringIO()
    Console(file=out, width=width).print(rich_table(read_results(run_dir)))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in out.getvalue(), "nothing may be cut off"
    picked = next(line for line in lines if "►" in line)
    for figure in ("joint 6 ms", "5.92", "−1.3%", "95.0", "28.7", "50.9"):
        assert figure in picked


def test_markdown_has_a_cell_for_every_column(run_dir: Path, raw: dict) -> None:
    lines = markdown(read_results(run_dir)).splitlines()
    assert len(lines) == 2 + len(raw["rows"])
    assert len({line.count("|") for line in lines}) == 1
    assert "| joint 6 ms ◄\u00a0picked | decode 6 ms | −1.3 % |" in lines[8]


def test_csv_keeps_full_precision(run_dir: Path, raw: dict) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(read_results(run_dir)))))
    for row, source in zip(rows, raw["rows"], strict=True):
        assert row["name"] == source["name"]
        assert row["budget_decode"] == ("" if source["budget"] is None else str(source["budget"]["decode"]))
        for phase in ("decode", "prefill"):
            for key in ("predicted", "measured", "low", "high", "raw"):
                assert float(row[f"{phase}_{key}_s"]) == source[phase][key]
        assert float(row["hellaswag_value"]) == source["accuracy"]["hellaswag"]["value"]
        assert int(row["blocks"]) == len(source["subnet"]["blocks"])


@given(st.floats(1e-4, 9e5), st.integers(1, 5))
def test_significant_is_the_nearest_short_number(value: float, digits: int) -> None:
    written = text.significant(value, digits)
    assert "e" not in written
    # g formatting rounds to the same number of significant digits; beyond the point all integer digits stay
    expected = float(f"{value:.{digits}g}") if value < 10**digits else float(round(value))
    assert float(written.replace(",", "")) == pytest.approx(expected, rel=10.0 ** (1 - digits) / 1.9)
    assert float(written.replace(",", "")) == pytest.approx(value, rel=0.51 * 10.0 ** (1 - digits))


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (28.7, "28.7"),
        (5.04, "5.04"),
        (9.999, "10.0"),
        (0.012345, "0.0123"),
        (287.4, "287"),
        (12345.0, "12,300"),
        (0, "0"),
    ],
)
def test_significant_examples(value: float, written: str) -> None:
    assert text.significant(value) == written


@pytest.mark.parametrize(
    ("seconds", "written"), [(3.0, "3.0 s"), (45.2, "45 s"), (212, "3 min 32 s"), (3840, "1 h 4 min")]
)
def test_duration_examples(seconds: float, written: str) -> None:
    assert text.duration(seconds) == written


@given(st.floats(1e-3, 1e6), st.floats(1.5, 1e9))
def test_log_ticks_are_few_and_inside(low: float, span: float) -> None:
    ticks = text.log_ticks(low, low * span)
    assert 2 <= len(ticks) <= 8
    assert all(low <= tick <= low * span for tick in ticks)
    assert len(set(ticks.values())) == len(ticks)


def test_log_ticks_examples() -> None:
    assert list(text.log_ticks(3.5, 33).values()) == ["4", "5", "6", "8", "10", "15", "20", "30"]
    assert list(text.log_ticks(20, 7e9).values()) == ["100", "1,000", "10,000", "100,000", "10⁶", "10⁷", "10⁸", "10⁹"]
