"""Whole runs: timed whole models beside the table's parts, from which the overhead of a forward call is fitted."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hwfit.errors import HwfitError, raise_all
from hwfit.files import is_number, parse_json, write_text
from hwfit.lut_store.schema import PROTOCOL
from hwfit.subnet import Subnet
from hwfit.workload import PHASES, Phase

FOLDER = "whole"


@dataclass(frozen=True)
class WholeRun:
    """Seconds of one forward call of a deployed subnet, corrected to the table's anchor reference."""

    subnet: Subnet
    phase: Phase
    seconds: float
    low: float
    high: float


def append_runs(tables: Path, device: str, runs: Sequence[WholeRun]) -> Path:
    """Write one new part, whole or not at all. Raises `HwfitError` if the folder cannot be written."""
    rows = [
        {"subnet": json.loads(r.subnet.to_json()), "phase": asdict(r.phase)}
        | {"seconds": r.seconds, "low": r.low, "high": r.high}
        for r in runs
    ]
    path = tables / FOLDER / f"{device}-{uuid.uuid4().hex[:12]}.json"
    try:
        write_text(path, json.dumps({"device": device, "protocol": PROTOCOL, "runs": rows}))
    except OSError as error:
        raise HwfitError(f"--tables {tables}: cannot be written ({error.strerror or error})") from error
    return path


def read_runs(tables: Path, device: str) -> list[WholeRun]:
    """All runs of `device` under this protocol version. Raises `HwfitError` naming every damaged part."""
    problems: list[str] = []
    found: list[WholeRun] = []
    for path in sorted((tables / FOLDER).glob("*.json")):
        try:
            raw = parse_json(path.read_text())
            if raw["device"] == device and raw["protocol"] == PROTOCOL:
                found += _decoded(raw["runs"], path)
        except (OSError, ValueError, KeyError, TypeError, HwfitError) as error:
            problems.append(
                f"{path}: damaged or foreign ({type(error).__name__}: {error}); delete it and profile again"
            )
    raise_all(problems)
    return found


def _decoded(rows: Iterable[dict], path: Path) -> list[WholeRun]:
    out = []
    for row in rows:
        subnet = Subnet.from_json(json.dumps(row["subnet"]), source=str(path))
        times = [row[key] for key in ("seconds", "low", "high")]
        if not all(is_number(t) and t > 0 for t in times):
            raise HwfitError(f"times {times} must be positive seconds")
        phase = Phase(**row["phase"])
        sizes = (phase.tokens, phase.context, phase.batch)
        if phase.name not in PHASES or not all(isinstance(n, int) and n > 0 for n in sizes):
            raise HwfitError(f"phase {row['phase']} must name one of {', '.join(PHASES)} and sizes of at least 1")
        out.append(WholeRun(subnet, phase, *(float(t) for t in times)))
    return out
