"""`hwfit tables …` and `hwfit advise` as a user types them, on tables small enough to read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hwfit.cli import app
from hwfit.errors import HwfitError

CSV = "m,n,k,precision,latency_us\n" + "".join(
    f"{m},{n},{k},{p},{(1 + n * k * m / 1e6) * f}\n"
    for m in (1, 128)
    for n, k in ((64, 64), (32, 64), (128, 64), (64, 128), (256, 64))
    for p, f in (("w16a16", 1.0), ("w8a16", 0.6), ("w8a8", 1.5))
)
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "vocab_size": 256,
    "rms_norm_eps": 1e-5,
}


def hwfit(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    (tmp_path / "mine.csv").write_text(CSV)
    hwfit("tables", "import", tmp_path / "mine.csv", "--device", "mine", "--tables", tmp_path / "t")
    return tmp_path / "t"


def test_import_list_show_export_and_back(tables: Path, tmp_path: Path) -> None:
    from hwfit import table_commands

    listed = table_commands.ls(tables)
    assert listed[["device", "cells"]].to_numpy().tolist() == [["mine", 30]]
    assert len(table_commands.show("mine", tables, precision="w8a16", m=1)) == 5
    for suffix in (".csv", ".parquet"):
        table_commands.export("mine", tmp_path / f"out{suffix}", tables)
        hwfit("tables", "import", tmp_path / f"out{suffix}", "--device", f"b{suffix}", "--tables", tables)
        (same,) = {change.verdict for change in table_commands.diff("mine", f"b{suffix}", tables)}
        assert same == "no change"
    assert table_commands.verify(tables) == 90


def test_mistakes_name_the_flag_and_what_is_there(tables: Path) -> None:
    for arguments, told in (
        (("tables", "show", "min", "--tables", tables), "--device min is not in table"),
        (("tables", "show", "mine", "--m", "2", "--tables", tables), "--m 2: no such cell; allowed: 1, 128"),
        (("tables", "import", "aic", "--device", "x", "--tables", tables), "SOURCE 'aic' is unknown"),
        (("tables", "export", "mine", "--out", "a.xls", "--tables", tables), "--out a.xls: unknown kind of file"),
        (("advise", "--device", "mine", "--tables", tables), "neither is given"),
    ):
        with pytest.raises(HwfitError) as caught:
            hwfit(*arguments)
        assert told in str(caught.value)


def test_advice_from_a_config_alone(tables: Path, tmp_path: Path) -> None:
    from hwfit import commands

    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    found = commands.advise(None, "mine", tables, tmp_path / "config.json")
    assert {one.fastest.precision.name for one in found} == {"w8a16"}
    assert found[0].fastest.speedup == pytest.approx(1 / 0.6)
    assert {c.precision.name for one in found for c in one.choices if c.slower} == {"w8a8"}
    text = hwfit("advise", "--config", tmp_path / "config.json", "--device", "mine", "--tables", tables)
    assert "w8a8 (0.67)" in text
    assert "all linears of decode, times as fast: w16a16 1.00, w8a16 1.67, w8a8 0.67" in text
