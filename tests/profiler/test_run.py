import errno
import json
import signal
import time
from pathlib import Path

import forks
import pytest
from fake_backend import FakeBackend, tiny_space

from hwfit.errors import HwfitError
from hwfit.lut_store import table as table_module
from hwfit.lut_store.schema import Measurement, RunInfo
from hwfit.lut_store.table import Table
from hwfit.profiler.device_kinds import fingerprint
from hwfit.profiler.plan import plan
from hwfit.profiler.protocol import Rules
from hwfit.profiler.run import profile
from hwfit.workload import Workload

FAST = Rules(seconds=0.05, max_rounds=6, drift=1e9)
CELLS = len(plan(tiny_space(), Workload(), FakeBackend(work=lambda s: None)))


def sleepy(**changes) -> FakeBackend:
    return FakeBackend(work=lambda seconds: time.sleep(1e-5), **changes)


def run(tables: Path, backend: FakeBackend | None = None, **options):
    options = {"rules": FAST, "progress": False, **options}
    return profile(tiny_space(), tables=tables, backend=backend or sleepy(), **options)


def test_everything_is_measured_and_then_skipped(tmp_path: Path):
    report = run(tmp_path, rules=Rules(seconds=0.05, max_rounds=6, unstable=1e9, drift=1e9))
    assert (report.planned, report.measured, report.skipped, report.left) == (CELLS, CELLS, 0, 0)
    assert report.device == fingerprint("cpu").key
    frame = Table(tmp_path).read(report.device)
    assert set(frame["status"]) == {"OK"}
    assert len(frame) == CELLS
    assert (frame["p10"] > 0).all()
    assert (frame["samples"] >= 6).all()
    assert set(frame["kernel"]) == {"FakeLinear", "FakeAttention", "FakeNorm", "FakeSwiglu", "FakeEmbed"}
    parts = Table(tmp_path).parts()
    again = run(tmp_path)
    assert (again.measured, again.skipped, again.left) == (0, CELLS, 0)
    assert Table(tmp_path).parts() == parts, "a part is never rewritten, and nothing new was written"


def test_one_anchor_reference_for_all_runs(tmp_path: Path):
    rules = Rules(seconds=0.05, max_rounds=6, unstable=0.0, drift=1e9)
    run(tmp_path, rules=rules)
    run(tmp_path, rules=rules)
    frame = Table(tmp_path).read()
    assert frame["pace_reference"].nunique() == 1, "on a processor one pace stands for all work"
    assert len(Table(tmp_path).runs()) == 2


def test_unstable_cells_are_tried_again(tmp_path: Path):
    report = run(tmp_path, rules=Rules(seconds=0.05, max_rounds=6, unstable=0.0, drift=1e9))
    assert report.unstable == report.measured == CELLS
    frame = Table(tmp_path).read()
    assert set(frame["status"]) == {"UNSTABLE"}
    assert (frame["p10"] > 0).all()
    assert run(tmp_path).measured == CELLS


def test_what_cannot_run_is_written_down_once_with_its_reason(tmp_path: Path):
    report = run(tmp_path, sleepy(cannot=("w8a8",)))
    assert report.unsupported > 0
    assert report.measured == CELLS - report.unsupported
    frame = Table(tmp_path).read()
    rows = frame[frame["status"] == "UNSUPPORTED"]
    assert len(rows) == report.unsupported
    assert set(rows["note"]) == {"this device has no w8a8"}
    assert rows["p10"].isna().all()
    assert run(tmp_path, sleepy()).measured >= report.unsupported, "a backend that learns them measures them"


def test_coarse_leaves_the_exact_cells_to_a_later_run(tmp_path: Path):
    report = run(tmp_path, coarse=True)
    assert 0 < report.measured < CELLS
    assert run(tmp_path, rules=Rules(seconds=0.05, max_rounds=6, unstable=1e9, drift=1e9)).planned == CELLS


def test_minutes_are_respected_and_what_is_left_is_said(tmp_path: Path):
    slow = FakeBackend(work=lambda seconds: time.sleep(0.01))
    for attempt in "123":  # a busy machine may be elsewhere for a second
        report = run(tmp_path / attempt, slow, minutes=2 / 60, rules=Rules())
        if report.seconds < 3:
            break
    assert report.seconds < 3
    assert report.left > 0
    assert report.measured + report.left == CELLS
    with pytest.raises(HwfitError, match=r"--minutes 0 must be above 0"):
        run(tmp_path, minutes=0)


def test_run_is_recorded_with_its_circumstances(tmp_path: Path):
    run(tmp_path, coarse=True)
    (info,) = Table(tmp_path).runs()
    assert info.device == fingerprint("cpu").key
    assert info.fingerprint["cores"] >= 1
    assert info.versions["fake"] == "1.0"
    assert info.commit
    assert abs(info.started - time.time()) < 60


def test_rows_of_another_device_are_not_taken_for_ours(tmp_path: Path):
    ops = [cell.op for cell in plan(tiny_space(), Workload(), sleepy())]
    foreign = RunInfo(run_id="f", device="cpu-x", fingerprint={}, versions={}, commit="", load=0.0, started=0.0)
    Table(tmp_path).append(
        [Measurement(op=op, status="OK", device="cpu-x", backend="b", p10=1.0) for op in ops], foreign
    )
    report = run(tmp_path)
    assert report.measured == CELLS
    assert Table(tmp_path).devices() == sorted(["cpu-x", report.device])


def test_disk_that_fills_up_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real, calls = table_module.os.fsync, []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(table_module.os, "fsync", fsync)
    with pytest.raises(HwfitError, match="no space left"):
        run(tmp_path)
    monkeypatch.undo()
    kept = len(Table(tmp_path).read())
    assert 0 < kept < CELLS
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_truncated_part_stops_the_profile_and_names_the_file(tmp_path: Path):
    run(tmp_path, coarse=True)
    part = Table(tmp_path).parts()[0]
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(HwfitError, match=part.name):
        run(tmp_path)


def slowly(tables: Path, out: Path) -> None:
    backend = FakeBackend(work=lambda s: time.sleep(0.002))
    rules = Rules(seconds=0.05, max_rounds=6, unstable=1e9, drift=1e9)
    report = profile(tiny_space(), tables=tables, backend=backend, rules=rules, progress=False)
    out.write_text(json.dumps({"measured": report.measured, "skipped": report.skipped, "left": report.left}))


def test_kill_minus_nine_loses_at_most_the_batch_in_flight(tmp_path: Path):
    table, out = Table(tmp_path / "tables"), tmp_path / "report.json"
    for parts in (2, 4):
        process = forks.start(slowly, table.path, out)
        while len(table.parts()) < parts:
            assert process.exitcode is None, "the profile ended before it could be killed"
            time.sleep(0.005)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    before = table.read()
    assert 0 < len(before) < CELLS, "every part that is there can be read"
    assert forks.finish(slowly, table.path, out) == 0
    report = json.loads(out.read_text())
    assert report == {"measured": CELLS - len(before), "skipped": len(before), "left": 0}
    after = table.read()
    kept = after.merge(before, on=[*before.columns[:7]], suffixes=("", "_before"))
    assert len(after) == CELLS
    assert kept["p10"].tolist() == kept["p10_before"].tolist(), "nothing measured before the kill changed"
