"""Parts from elsewhere are checked row by row before they are used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hwfit.errors import HwfitError
from hwfit.kernels.op import Op, linear
from hwfit.lut_store.schema import Measurement, to_arrow
from hwfit.lut_store.table import Table

GOOD = Measurement(op=linear(1, 64, 128, "w4a16"), status="OK", device="d", backend="b", run_id="r", p10=1e-6)


@pytest.mark.parametrize(
    ("row", "column"),
    [
        (replace(GOOD, p10=-1e-6), "p10"),
        (replace(GOOD, p10=float("inf")), "p10"),
        (replace(GOOD, p10=None), "p10"),
        (replace(GOOD, half_width=-1.0), "half_width"),
        (replace(GOOD, op=Op("linear", 0, 64, 128, "w4a16")), "m"),
        (replace(GOOD, op=Op("gemm", 1, 64, 128, "w4a16")), "kind"),  # pyright: ignore[reportArgumentType]
        (replace(GOOD, status="GOOD"), "status"),  # pyright: ignore[reportArgumentType]
        (replace(GOOD, p10=3e-6), "p10"),
    ],
)
def test_an_impossible_row_is_named(tmp_path: Path, row: Measurement, column: str) -> None:
    part = tmp_path / "part.parquet"
    pq.write_table(to_arrow([GOOD, row]), part)
    with pytest.raises(HwfitError) as caught:
        Table(tmp_path).read()
    assert any(f"{part}, {column}: row" in problem for problem in caught.value.problems)


def test_an_unknown_precision_is_named(tmp_path: Path) -> None:
    arrow = to_arrow([GOOD, GOOD])
    column = arrow.schema.get_field_index("precision")
    part = tmp_path / "part.parquet"
    pq.write_table(arrow.set_column(column, "precision", [["w4a16", "w5a16"]]), part)
    with pytest.raises(HwfitError, match=r"row 1: 'w5a16'; allowed: .*did you mean"):
        Table(tmp_path).read()
