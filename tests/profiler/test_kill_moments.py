"""kill -9 at 20 random moments of a profile: what was written stays, only the cell in flight is measured again."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_backend import FakeBackend, tiny_space

from hwfit.lut_store.table import Table
from hwfit.profiler.plan import plan
from hwfit.workload import Workload

KILLS = 20
CELLS = len(plan(tiny_space(), Workload(), FakeBackend(work=lambda s: None)))
# one cell a batch, so that the one in flight is one cell; each is logged just after its part is written
PROGRAM = """
import sys, time
sys.path.insert(0, sys.argv[1])
from fake_backend import FakeBackend, tiny_space
from hwfit.profiler import run
from hwfit.profiler.protocol import Rules
write = run.Table.append
def append(table, rows, info):
    write(table, rows, info)
    with open(sys.argv[3], "a") as log:
        print(rows[0].op, file=log)
run.Table.append = append
print("ready", flush=True)
report = run.profile(tiny_space(), tables=sys.argv[2], backend=FakeBackend(work=lambda s: time.sleep(0.002)),
                     rules=Rules(seconds=0.05, max_rounds=6, unstable=1e9, drift=1e9, batch=1), progress=False)
"""


@pytest.mark.slow
def test_twenty_random_kills_lose_nothing_that_was_measured(tmp_path: Path):
    tables, log = tmp_path / "tables", tmp_path / "log"
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(tables), str(log)]
    rng = random.Random(20)
    kills = 0
    while kills < KILLS:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.0, 0.5))
        finished = process.poll() is not None
        process.kill()
        process.wait()
        kills += not finished
        measured = log.read_text().splitlines() if log.exists() else []
        table = Table(tables)
        assert len(measured) == len(set(measured)), "a cell that was written is not measured again"
        if table.parts():
            frame = table.read()
            assert len(measured) <= len(frame) <= len(measured) + kills, "all parts can be read, none is missing"
        if finished:
            assert len(table.read()) == CELLS
            for file in [*tables.iterdir(), log]:
                file.unlink()
