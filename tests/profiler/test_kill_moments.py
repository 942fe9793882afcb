"""kill -9 at 20 random moments of a profile: what was written stays, only the cell in flight is measured again."""

from __future__ import annotations

import random
import time
from multiprocessing.connection import Connection
from pathlib import Path

import forks
import pytest
from fake_backend import FakeBackend, tiny_space

from hwfit.lut_store.schema import Measurement, RunInfo
from hwfit.lut_store.table import Table
from hwfit.profiler import run
from hwfit.profiler.plan import plan
from hwfit.profiler.protocol import Rules
from hwfit.workload import Workload

KILLS = 20
CELLS = len(plan(tiny_space(), Workload(), FakeBackend(work=lambda s: None)))
RULES = Rules(seconds=0.05, max_rounds=6, unstable=1e9, drift=1e9, batch=1)


def profiled(tables: Path, log: Path, ready: Connection) -> None:
    """One cell a batch, so that the one in flight is one cell; each is logged just after its part is written."""
    write = run.Table.append

    def append(table: Table, rows: list[Measurement], info: RunInfo) -> None:
        write(table, rows, info)
        with log.open("a") as file:
            print(rows[0].op, file=file)

    run.Table.append = append
    ready.send("ready")
    backend = FakeBackend(work=lambda s: time.sleep(0.002))
    run.profile(tiny_space(), tables=tables, backend=backend, rules=RULES, progress=False)


@pytest.mark.slow
def test_twenty_random_kills_lose_nothing_that_was_measured(tmp_path: Path):
    tables, log = tmp_path / "tables", tmp_path / "log"
    rng = random.Random(20)
    kills = 0
    while kills < KILLS:
        here, there = forks.CONTEXT.Pipe(duplex=False)
        process = forks.start(profiled, tables, log, there)
        assert here.recv() == "ready"
        time.sleep(rng.uniform(0.0, 0.5))
        finished = process.exitcode is not None
        process.kill()
        process.join()
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
