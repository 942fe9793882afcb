import errno
import os
import threading
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hwfit.errors import HwfitError
from hwfit.kernels.op import Op, linear
from hwfit.lut_store import table as table_module
from hwfit.lut_store.schema import PROTOCOL, Measurement, RunInfo
from hwfit.lut_store.table import Table, default_tables_dir

OP = linear(1, 576, 576, "w4a8g32")


def run(run_id: str = "r1", device: str = "cpu-a", started: float = 0.0) -> RunInfo:
    return RunInfo(
        run_id=run_id, device=device, fingerprint={"name": device}, versions={}, commit="c", load=0.0, started=started
    )


def row(op: Op = OP, p10: float | None = 1e-5, at: float = 0.0, **changes) -> Measurement:
    fields = {"device": "cpu-a", "backend": "fake", "status": "OK", "run_id": "r1"}
    return Measurement(op=op, p10=p10, measured_at=at, **{**fields, **changes})


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path / "tables")


def test_read_returns_what_was_appended(table: Table):
    ops = [OP, linear(128, 576, 576, "w32"), Op("attention", 1, 9, 3, head_size=64, context=128)]
    table.append([row(op, p10=(i + 1) * 1e-5) for i, op in enumerate(ops)], run())
    frame = table.read("cpu-a")
    found = {Op(*values): p10 for *values, p10 in frame[[*Op.__dataclass_fields__, "p10"]].itertuples(index=False)}
    assert found == {op: (i + 1) * 1e-5 for i, op in enumerate(ops)}
    assert table.known("cpu-a") == dict.fromkeys(ops, "OK")


def test_the_latest_ok_row_wins_whatever_the_order_of_the_parts(table: Table):
    table.append([row(p10=2.0, at=2)], run("z"))
    table.append([row(p10=3.0, at=3)], run("a"))
    table.append([row(p10=1.0, at=1)], run("m"))
    table.append([row(p10=9.0, at=9, status="UNSTABLE")], run("n"))
    table.append([row(p10=None, at=10, status="UNSUPPORTED")], run("o"))
    frame = table.read("cpu-a")
    assert frame["p10"].tolist() == [3.0]
    assert frame["status"].tolist() == ["OK"]


def test_unstable_is_returned_only_for_want_of_ok(table: Table):
    table.append([row(p10=None, at=5, status="UNSUPPORTED"), row(p10=9.0, at=1, status="UNSTABLE")], run())
    assert table.read("cpu-a")["status"].tolist() == ["UNSTABLE"]


def test_devices_are_never_mixed(table: Table):
    table.append([row(p10=1.0)], run())
    table.append([row(p10=2.0, device="cpu-b")], run(device="cpu-b"))
    assert table.read("cpu-b")["p10"].tolist() == [2.0]
    assert len(table.read()) == 2
    assert table.devices() == ["cpu-a", "cpu-b"]
    with pytest.raises(HwfitError, match=r"nothing of device 'cpu-c'.*cpu-a, cpu-b.*hwfit profile MODEL"):
        table.read("cpu-c")


def test_other_protocol_is_refused_with_both_versions(table: Table):
    table.append([row(protocol=PROTOCOL + 6)], run())
    with pytest.raises(HwfitError, match=rf"protocol version {PROTOCOL + 6}, .* version {PROTOCOL};.*hwfit profile"):
        table.read("cpu-a")
    assert table.known("cpu-a") == {}


def test_empty_table_names_the_command(table: Table):
    with pytest.raises(HwfitError, match=r"no measurements.*hwfit profile MODEL --device cpu --tables"):
        table.read()
    assert table.known("cpu-a") == {}
    assert table.devices() == []


@pytest.mark.parametrize("keep", [0, 3, 40, -1])
def test_every_truncated_or_foreign_part_is_named(table: Table, keep: int):
    good = table.append([row()], run())
    bad = table.path / "bad.parquet"
    bad.write_bytes(good.read_bytes()[:keep])
    foreign = table.path / "foreign.parquet"
    pq.write_table(pa.table({"m": [1], "latency": [2.0]}), foreign)
    for read in (table.read, table.devices, lambda: table.known("cpu-a")):
        with pytest.raises(HwfitError) as caught:
            read()
        assert len(caught.value.problems) == 2
        assert str(bad) in caught.value.problems[0]
        assert "it lacks kind" in caught.value.problems[1]
        assert all("mv " in problem and "hwfit profile" in problem for problem in caught.value.problems)
    bad.unlink()
    foreign.unlink()
    assert len(table.read()) == 1


def test_a_flipped_byte_does_not_pass(table: Table):
    """A changed byte in the first half of the file (the data pages) is refused or harmless to the rows."""
    part = table.append([row()], run())
    expected = table.read()
    data = part.read_bytes()
    refused = 0
    for i in range(4, len(data) // 2, 23):
        part.write_bytes(data[:i] + bytes([data[i] ^ 0x55]) + data[i + 1 :])
        try:
            pd.testing.assert_frame_equal(table.read(), expected)
        except HwfitError:
            refused += 1
    assert refused > 10


def test_no_space_leaves_nothing_behind(table: Table, monkeypatch: pytest.MonkeyPatch):
    table.append([row()], run())
    before = sorted(os.listdir(table.path))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(table_module.os, "fsync", full)
    with pytest.raises(HwfitError, match=r"no space left for a part of [\d,]+ bytes .*resumes"):
        table.append([row()], run())
    monkeypatch.undo()
    assert sorted(os.listdir(table.path)) == before
    assert len(table.read()) == 1


def test_a_really_full_disk_is_reported(table: Table, monkeypatch: pytest.MonkeyPatch):
    """The device that is always full gives the operating system's own ENOSPC."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    real = open
    monkeypatch.setattr("builtins.open", lambda path, mode="r": real("/dev/full", mode))
    with pytest.raises(HwfitError, match="no space left"):
        table.append([row()], run())
    monkeypatch.undo()
    assert os.listdir(table.path) == []


def test_a_folder_that_cannot_be_written_is_refused_before_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(HwfitError, match=r"cannot be written"):
        Table(file / "tables").prepare()

    def read_only(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(table_module.os, "fsync", read_only)
    with pytest.raises(HwfitError, match=r"cannot be written \(Read-only file system\).*--tables"):
        Table(tmp_path).prepare()


def test_prepare_leaves_no_trace(table: Table):
    table.prepare()
    assert os.listdir(table.path) == []


def test_stale_temporary_files_are_swept_and_fresh_ones_left(table: Table):
    table.prepare()
    stale, fresh = table.path / ".old.parquet.tmp", table.path / ".new.parquet.tmp"
    for file in (stale, fresh):
        file.write_bytes(b"half")
    os.utime(stale, (0, 0))
    table.append([row()], run())
    assert not stale.exists()
    assert fresh.exists()
    assert len(table.read()) == 1


def test_many_writers_at_once_lose_nothing(table: Table):
    def write(i: int) -> None:
        for j in range(10):
            table.append([row(linear(1, i + 1, j + 1, "w32"))], run(f"r{i}"))

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(table.read()) == 40
    assert len(table.parts()) == 40


def test_references_come_oldest_first(table: Table):
    table.append([row(at=2, pace_reference=0.2)], run())
    table.append([row(at=1, pace_reference=0.1)], run())
    table.append([row(at=0, p10=None, status="UNSUPPORTED")], run())
    assert [pace for _, pace in table.references("cpu-a")] == [0.1, 0.2]
    assert table.references("cpu-b") == []


def test_runs_are_listed_oldest_first(table: Table):
    table.append([row()], run("second", started=2.0))
    table.append([row()], run("first", started=1.0))
    table.append([row()], run("second", started=2.0))
    assert [r.run_id for r in table.runs()] == ["first", "second"]


def test_parts_are_plain_parquet(table: Table):
    part = table.append([row()], run())
    assert pd.read_parquet(part)["p10"].tolist() == [1e-5]


def test_default_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_tables_dir() == tmp_path / "hwfit" / "tables"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Table().path == tmp_path / ".cache" / "hwfit" / "tables"
