"""Files of measurements: what is written comes back, and every mistake is named with its row and column."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwfit.errors import HwfitError
from hwfit.kernels.op import linear
from hwfit.lut_store.facts import Facts, facts_of
from hwfit.lut_store.importing import import_file
from hwfit.lut_store.table import Table

GOOD = "m,n,k,precision,latency_us\n1,64,128,w4a16,2.5\n16,64,128,w16a16,4\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    return path


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(HwfitError) as caught:
        import_file(write(tmp_path, text), "mine", Table(tmp_path / "t"))
    return caught.value.problems


def test_rows_become_measurements_in_seconds(tmp_path: Path) -> None:
    table = Table(tmp_path / "t")
    assert import_file(write(tmp_path, GOOD), "mine", table, Facts(1e12, 1e14, multiprocessors=8)) == 2
    rows = table.read("mine").set_index("m")["p10"].to_dict()
    assert rows == pytest.approx({1: 2.5e-6, 16: 4e-6})
    assert facts_of(table, "mine").bandwidth == 1e12
    assert table.known("mine") == {linear(1, 64, 128, "w4a16"): "OK", linear(16, 64, 128, "w16a16"): "OK"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("m,n,k,precision,latency_us\n1,64,128,w5a16,2.5\n", "row 2, precision: 'w5a16' is unknown"),
        ("m,n,k,precision,latency_us\n1,64,128,w4a16,-2.5\n", "row 2, latency_us: -2.5 must be"),
        ("m,n,k,precision,latency_us\n1,64,128,w4a16,\n", "row 2, latency_us: nan must be"),
        ("m,n,k,precision,latency_us\n0,64,128,w4a16,1\n", "row 2, m: 0 must be a whole number of at least 1"),
        ("m,n,k,precision,latency_us\n1,64.5,128,w4a16,1\n", "row 2, n: 64.5 must be a whole number"),
        ("m,n,k,precision,latency_us,latency_ms\n1,64,128,w4a16,1,1\n", "mixed units latency_us, latency_ms"),
        ("m,n,k,precision\n1,64,128,w4a16\n", "no latency"),
        ("m,n,precision,latency_us\n1,64,w4a16,1\n", "column 'k' is missing"),
        ("m,n,k,precison,latency_us\n1,64,1,w4a16,1\n", "column 'precison' is unknown; allowed: "),
        (GOOD + "1,64,128,w4a16,5\n", "rows 2 and 4 are one cell, but disagree by a factor of 2"),
        ("m,n,k,precision,latency_us\n", "no rows"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, told: str) -> None:
    assert any(told in problem for problem in problems(tmp_path, text))
    assert not Table(tmp_path / "t").parts()


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    assert len(problems(tmp_path, "m,n,k,precision,latency_us\n0,64,128,w4a16,1\n1,64,128,w5,-1\n")) == 3


def test_other_files_are_refused(tmp_path: Path) -> None:
    bad = tmp_path / "t.parquet"
    bad.write_text("no parquet")
    for path, told in (
        (bad, "cannot be read as parquet"),
        (tmp_path / "a.xls", "kind"),
        (tmp_path / "b.csv", "no such"),
    ):
        with pytest.raises(HwfitError, match=told):
            import_file(path, "mine", Table(tmp_path / "t"))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.tuples(st.integers(1, 4096), st.integers(1, 4096), st.integers(1, 4096)), st.floats(1e-7, 1.0), min_size=1
    ),
    st.sampled_from([".csv", ".parquet"]),
)
def test_a_written_table_reads_back(
    tmp_path_factory: pytest.TempPathFactory, cells: dict[tuple[int, int, int], float], suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("import")
    frame = pd.DataFrame([(*size, "w8a16", t) for size, t in cells.items()])
    frame.columns = ["m", "n", "k", "precision", "latency_s"]
    path = folder / f"x{suffix}"
    (frame.to_csv if suffix == ".csv" else frame.to_parquet)(path, index=False)
    import_file(path, "d", Table(folder / "t"))
    read = Table(folder / "t").read("d")
    back = {(row["m"], row["n"], row["k"]): row["p10"] for row in read.to_dict("records")}
    assert back == pytest.approx(cells)
