"""kill -9 in the middle of profile and in every stage of search and distillation; the same command again finishes.

Nothing measured is redone, and the result is an undisturbed run's, bit for bit.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import forks
import pytest
from small_model import write_small_model

from hwfit.deploy.runtime import OnnxModel
from hwfit.lut_store.table import Table
from hwfit.search.steps_log import read_steps
from hwfit.subnet import Subnet

sys.path.append(str(Path(__file__).parent / "search"))
import search_job

pytestmark = pytest.mark.slow


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "hwfit.cli", *map(str, arguments)]


def kill_when(arguments: list[str], ready: Callable[[], bool], log: Path, limit: float = 240) -> None:
    """Start the command, SIGKILL it as soon as `ready()`, and make sure that it had not ended before."""
    with open(log, "w") as out:
        process = subprocess.Popen(arguments, stdout=out, stderr=subprocess.STDOUT)
        start = time.monotonic()
        while not ready():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() - start < limit, log.read_text()
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def run(arguments: list[str]) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(tables: Path) -> int:
    """Cells that need no second measurement (unstable ones are tried again)."""
    known = [Table(tables).known(device) for device in Table(tables).devices()]
    return sum(status == "OK" for cells in known for status in cells.values())


def test_profile_and_search_survive_kill_minus_nine(tmp_path: Path):
    model, tables, out = write_small_model(tmp_path / "model"), tmp_path / "tables", tmp_path / "run"
    profile = command("profile", model, "--tables", tables, "--coarse", "--minutes", "1", "--whole-models", "4")
    parts = Table(tables).parts
    kill_when(profile, lambda: len(parts()) >= 4, tmp_path / "profile.log")
    kept, before = parts(), rows(tables)
    contents = [part.read_bytes() for part in kept]
    assert before >= 12
    assert "known before" in (printed := run(profile))
    assert f" {before} known" in " ".join(printed.split())
    assert [part.read_bytes() for part in kept] == contents

    whole = Subnet.load(_whole(model, tmp_path))
    limit = json.loads(run(command("predict", _whole(model, tmp_path), "--tables", tables, "--json")))
    budget = f"decode={limit['whole.json']['decode']['value'] * 0.6 * 1e6:.1f}us"
    search = command("search", model, "--budget", budget, "--tables", tables, "--out", out)
    search += ["--text", str(model / "text.txt"), "--steps", "6", "--distil-steps", "4", "--no-judge"]
    checkpoints = out / "checkpoints"
    kill_when(search, lambda: any(checkpoints.glob("search-*.safetensors")), tmp_path / "search.log")
    assert not (out / "subnets").exists()
    run(search)
    found = OnnxModel(out / "subnets" / "subnet" / "model.onnx").subnet
    assert found.params < whole.params or found.mean_weight_bits < whole.mean_weight_bits
    run(search)  # a third time: everything is there


POINTS = {
    "importance": "importance",
    "original's answers": "teacher-:2",
    "supernet weights": "supernet:2",
    "architecture steps": "search-a:2",
    "re-measuring": "measured.json:2",
    "writing what was found": "a.json",
    "distillation": "distil-a:3",
    "writing the bundle": "model.safetensors",
    "marking it as distilled": "distilled.json",
}


def files(out: Path) -> dict[str, bytes]:
    """What a run leaves, by path: everything but speeds and the temporary files of killed writers."""
    kept = {p.relative_to(out): p for p in out.rglob("*") if p.is_file() and not p.name.endswith(".tmp")}
    return {str(n): p.read_bytes() for n, p in kept.items() if n.parts[0] != "logs"}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_killed_once_in_every_stage_a_search_ends_where_an_undisturbed_one_does(tmp_path: Path, method: str):
    def job(out: Path, *arguments: str) -> int:
        return forks.finish(search_job.main, [str(out), "--method", method, *arguments])

    whole, killed = tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    assert job(whole) == 0
    points = POINTS if method == "full" else {"distillation": POINTS["distillation"]}
    for stage, point in points.items():
        assert job(killed, "--die-at", point) == -signal.SIGKILL, stage
    assert job(killed) == 0
    want, got = files(whole), files(killed)
    assert set(want) == set(got)
    for name, content in want.items():
        assert got[name] == content, name
    for log in (whole / "logs").glob("*.csv"):
        rows = [read_steps(run / "logs" / log.name) for run in (whole, killed)]
        assert [{**row, "tokens_per_s": 0} for row in rows[0]] == [{**row, "tokens_per_s": 0} for row in rows[1]]


def _whole(model: Path, folder: Path) -> Path:
    from hwfit.models.llama import load_shape
    from hwfit.space import Space

    path = folder / "whole.json"
    space = Space.default(load_shape(model))
    path.write_text(Subnet.whole(space.shape, "w32", space.embed).to_json())
    return path
