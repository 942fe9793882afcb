"""Run: measure the cells of a plan that the table does not have yet, batch by batch, and write each batch down."""

from __future__ import annotations

import gc
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hwfit import __version__
from hwfit.errors import HwfitError
from hwfit.kernels.op import Op
from hwfit.lut_store.facts import Facts, facts_of
from hwfit.lut_store.schema import Measurement, RunInfo, Status
from hwfit.lut_store.table import Table
from hwfit.profiler.anchor import Anchor
from hwfit.profiler.device import Fingerprint
from hwfit.profiler.device_kinds import fingerprint, get_backend
from hwfit.profiler.plan import STAGES, Cell, Stage, plan
from hwfit.profiler.protocol import Reading, Rules, batches, default_rules, measure
from hwfit.progress import track
from hwfit.space import Space
from hwfit.workload import Workload

if TYPE_CHECKING:
    from hwfit.kernels.backend import Backend

Order = Callable[[Sequence[Op], Sequence[Op], Facts], list[Op]]
"""The first ops in the order they are worth measuring in on a device of such facts, given that the second have been."""
FEWEST = 5
"""Rounds at the least, however short the time."""


@dataclass(frozen=True)
class ProfileReport:
    """How many cells were planned, measured now, skipped (the table had them), cannot run, and stayed noisy.

    `left` cells found no time. `seconds` is the wall time of the whole call.
    """

    device: str
    table: Path
    planned: int
    measured: int
    skipped: int
    unsupported: int
    unstable: int
    left: int
    seconds: float


def profile(
    space: Space,
    workload: Workload | Sequence[Workload] | None = None,
    device: str = "cpu",
    tables: Table | Path | str | None = None,
    minutes: float | None = None,
    progress: bool = True,
    *,
    coarse: bool = False,
    rules: Rules | None = None,
    backend: Backend | None = None,
    between: Callable[[], None] = lambda: None,
    order: Order | None = None,
    identity: Fingerprint | None = None,
) -> ProfileReport:
    """Measure every op of `space` under one or several workloads on this machine's `device` into the table at `tables`.

    Cells that the table already has for this device and protocol are skipped (`UNSTABLE` ones are tried again), so
    the same command resumes after a kill; a kill loses the batch in flight. Cells that the machine's drift made useless
    get a second turn at the end. `minutes` is respected: the coarse cells share them evenly (a cell needs about 0.2 s
    at least: what finds no time is `left`) and the exact ones take the rest. `coarse=True` leaves the exact ones out.
    `between` is called after each batch, for what is to be measured in turns with the cells. `order` is asked once all
    coarse cells are in the table which of the exact ones come first; without it the largest do. `identity`
    names a `backend` that is not this machine's `device`.
    Raises `HwfitError` for an unknown device, an inconsistent space, a bad part, and a folder that cannot be written.
    """
    start = time.monotonic()
    gc.freeze()  # what is imported need not be collected before every batch
    if minutes is not None and not minutes > 0:
        raise HwfitError(f"--minutes {minutes} must be above 0, such as 4")
    space.check()
    workload = workload or Workload()
    print_ = identity or fingerprint(device)
    backend = backend or get_backend(device)
    table = tables if isinstance(tables, Table) else Table(tables)
    table.prepare()

    cells = [cell for cell in plan(space, workload, backend) if not coarse or cell.stage == "coarse"]
    known = table.known(print_.key)
    impossible = [cell for cell in cells if cell.why_not]
    todo = [cell for cell in cells if not cell.why_not and known.get(cell.op, "UNSTABLE") != "OK"]
    run = _run_info(print_, backend)
    _record_impossible([cell for cell in impossible if cell.op not in known], table, run, backend)

    most = rules or default_rules(device)
    now = _share(most, len(_ops(todo, "coarse")), minutes and 60 * minutes)
    anchor = Anchor.of_table(backend, print_, table) if todo else None
    outcome: dict[Op, Status] = {}
    drifted: list[Op] = []

    def groups() -> Iterator[list[Op]]:
        for stage in STAGES:
            ops = _ops(todo, stage)
            if order and ops and stage == "exact":
                done = [op for op, status in table.known(print_.key).items() if status == "OK"]
                ops = order(ops, done, facts_of(table, print_.key))
            yield from batches(ops, backend, print_.cache, now)
        yield from batches(drifted, backend, print_.cache, now)

    if anchor:
        anchor.calibrate(now.calibration)
    with track(len(todo), f"profile {device}", progress) as advance:
        for ops in groups():
            if minutes is not None:
                left = 60 * minutes - (time.monotonic() - start)
                waiting = sum(op not in outcome for op in _ops(todo, "coarse"))
                now = _share(most, waiting, max(left, 0.0)) if waiting else now
                if left < now.seconds * len(ops) or left <= 0:
                    break
            assert anchor is not None
            readings = measure(ops, backend, anchor, print_.cache, now)
            rows = [_row(reading, run, backend, now) for reading in readings]
            table.append(rows, run)
            advance(sum(op not in outcome for op in ops), note=f"{ops[-1].kind} m={ops[-1].m}")
            drifted += [r.op for r in readings if r.drift > now.drift and r.op not in outcome]
            outcome |= {row.op: row.status for row in rows}
            between()
    return ProfileReport(
        device=print_.key,
        table=table.path,
        planned=len(cells),
        measured=len(outcome),
        skipped=len(cells) - len(impossible) - len(todo),
        unsupported=len(impossible),
        unstable=sum(status == "UNSTABLE" for status in outcome.values()),
        left=len(todo) - len(outcome),
        seconds=time.monotonic() - start,
    )


def _ops(cells: list[Cell], stage: Stage) -> list[Op]:
    return [cell.op for cell in cells if cell.stage == stage]


def _share(rules: Rules, coarse: int, seconds: float | None) -> Rules:
    """Shorten the seconds and the rounds a cell so that so many coarse cells fit into 90 % of `seconds`.

    Asked before every batch: what some took too long, on a busy machine, the others make up for.
    """
    if seconds is None or not coarse:
        return rules
    part = min(1.0, 0.9 * seconds / coarse / rules.seconds)
    return replace(rules, seconds=rules.seconds * part, min_rounds=max(FEWEST, round(rules.min_rounds * part)))


def steady(reading: Reading, rules: Rules) -> bool:
    """Whether a reading may be reported as `OK`."""
    calm = reading.held_back <= rules.throttled and reading.drift <= rules.drift
    return calm and reading.summary.spread <= rules.unstable


def _row(reading: Reading, run: RunInfo, backend: Backend, rules: Rules) -> Measurement:
    s = reading.summary
    return Measurement(
        op=reading.op,
        status="OK" if steady(reading, rules) else "UNSTABLE",
        device=run.device,
        backend=backend.name,
        kernel=backend.kernel(reading.op),
        run_id=run.run_id,
        measured_at=time.time(),
        p10=s.p10,
        p50=s.p50,
        p90=s.p90,
        mean=s.mean,
        std=s.std,
        half_width=s.half_width,
        samples=s.samples,
        raw_p10=reading.raw,
        stream=reading.correction.pace.stream,
        compute=reading.correction.pace.compute,
        pace=reading.correction.pace.mean,
        pace_reference=reading.correction.reference,
        copies=reading.copies,
        energy=reading.joules,
        weight_bytes=backend.copy_bytes(reading.op),
        note="; ".join(filter(None, _notes(reading, rules))),
    )


def _notes(reading: Reading, rules: Rules) -> list[str]:
    ended = "interval narrow" if reading.narrow else "time or rounds spent"
    drifted = f"the machine ran at {reading.raw / reading.summary.p10:.2f} of its reference's times"
    return [ended, reading.conditions, drifted if reading.drift > rules.drift else ""]


def _record_impossible(cells: list[Cell], table: Table, run: RunInfo, backend: Backend) -> None:
    """Write down what the device cannot run, with the reason in words."""
    about = {"device": run.device, "backend": backend.name, "run_id": run.run_id, "measured_at": time.time()}
    rows = [Measurement(op=c.op, status="UNSUPPORTED", note=c.why_not or "", **about) for c in cells]
    if rows:
        table.append(rows, run)


def _run_info(print_: Fingerprint, backend: Backend) -> RunInfo:
    return RunInfo(
        run_id=time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + "-" + uuid.uuid4().hex[:6],
        device=print_.key,
        fingerprint=print_.to_dict(),
        versions={"hwfit": __version__, **{k: str(v) for k, v in backend.fingerprint().items()}},
        commit=_commit(),
        load=os.getloadavg()[0],
        started=time.time(),
    )


def _commit() -> str:
    """The checkout's commit (`+` if it has changes), or the package's version where there is no checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return __version__
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return __version__
    return done.stdout.strip()
