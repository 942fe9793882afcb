"""Results: what a run found out, read from its `results.json` and checked. Times are seconds, sizes bytes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from hwfit.errors import HwfitError, nearest, raise_all
from hwfit.files import parse_json, write_text
from hwfit.report.typed import Positive, decode
from hwfit.search.budget import METRICS
from hwfit.subnet import Subnet
from hwfit.workload import PHASES, PhaseName, Workload

RowKind = Literal["original", "uniform", "sequential", "joint"]
KINDS: tuple[RowKind, ...] = get_args(RowKind)
FILE = "results.json"
WRITERS = "`hwfit search` and `hwfit demo`"


@dataclass(frozen=True)
class Timing:
    """One phase of one model: `measured` with its interval, `raw` before drift correction, `predicted` beforehand."""

    measured: Positive
    low: Positive
    high: Positive
    predicted: Positive | None = None
    raw: Positive | None = None

    @property
    def error(self) -> float | None:
        """Prediction error as a signed fraction of the measured time."""
        return None if self.predicted is None else self.predicted / self.measured - 1


@dataclass(frozen=True)
class Score:
    """Share of documents answered right, 0…1."""

    value: float
    stderr: float
    n: int


@dataclass(frozen=True)
class Row:
    """One model of the comparison. `budget` maps a metric of `hwfit.search.budget` to its limit."""

    name: str
    kind: RowKind
    decode: Timing
    prefill: Timing
    size_bytes: Positive
    perplexity: Positive
    perplexity_low: Positive
    perplexity_high: Positive
    subnet: Subnet
    weight_bits: Positive
    budget: dict[str, Positive] | None = None
    picked: bool = False
    accuracy: dict[str, Score] = field(default_factory=dict)
    accuracy_mean: float | None = None
    accuracy_stderr: float | None = None

    def timing(self, phase: PhaseName) -> Timing:
        return self.decode if phase == "decode" else self.prefill

    @property
    def over_budget(self) -> dict[str, float]:
        """Measured over limit minus 1, for each limit that a row knows of; 0 or below is kept."""
        spent = {"decode": self.decode.measured, "prefill": self.prefill.measured, "memory": self.size_bytes}
        spent |= {"disk": self.size_bytes, "params": self.subnet.params, "1/params": 1 / self.subnet.params}
        return {key: spent[key] / limit - 1 for key, limit in (self.budget or {}).items() if key in spent}

    def beats(self, other: Row, phase: PhaseName) -> bool:
        """Faster in `phase` and of lower perplexity."""
        return self.timing(phase).measured < other.timing(phase).measured and self.perplexity < other.perplexity


@dataclass(frozen=True)
class Step:
    """One logged step of a search; `expected` and `budget` share a unit."""

    step: int
    loss: float
    expected: float
    budget: Positive
    entropy: float
    multiplier: float


@dataclass(frozen=True)
class Trajectory:
    budget_name: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Stage:
    name: str
    seconds: float


@dataclass(frozen=True)
class LayerTime:
    """Predicted time of all layers of one kind (`q_proj`, `attention`, `overhead`, …) of one row in one phase."""

    row: str
    phase: PhaseName
    kind: str
    seconds: float


@dataclass(frozen=True)
class Results:
    model: str
    created: str
    machine: dict[str, Any]
    workload: Workload
    rows: tuple[Row, ...]
    search: tuple[Trajectory, ...] = ()
    stages: tuple[Stage, ...] = ()
    layers: tuple[LayerTime, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def original(self) -> Row | None:
        return next((row for row in self.rows if row.kind == "original"), None)

    @cached_property
    def picked(self) -> Row | None:
        """The row the run recommends."""
        return next((row for row in self.rows if row.picked), None)

    @property
    def blocks(self) -> int:
        """Blocks of the original model, as far as the rows tell."""
        return max(row.subnet.blocks[-1] for row in self.rows) + 1

    def of_kind(self, kind: RowKind) -> list[Row]:
        """Rows of one kind, fastest decode first."""
        return sorted((row for row in self.rows if row.kind == kind), key=lambda row: row.decode.measured)

    def mean_error(self, phase: PhaseName) -> float | None:
        """Mean absolute prediction error as a fraction, over the rows that have a prediction."""
        errors = [abs(e) for row in self.rows if (e := row.timing(phase).error) is not None]
        return sum(errors) / len(errors) if errors else None


def read_results(run_dir: Path) -> Results:
    """Reads and checks `results.json` of a run folder. Raises `HwfitError` listing everything wrong with it."""
    path = run_dir / FILE
    try:
        raw = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HwfitError(f"{path}: cannot be read ({error.strerror}); {WRITERS} write one into --out DIR") from error
    except ValueError as error:
        raise HwfitError(f"{path}: not a JSON file ({error}); run the command that made it again") from error
    problems: list[str] = []
    results = decode(Results, raw, "results", problems)
    if results is not None:
        problems += _contradictions(results)
    raise_all([f"{path}: {problem}" for problem in problems])
    assert results is not None
    return results


def _contradictions(results: Results) -> list[str]:
    """What no single field shows: empty or repeated rows, upside-down intervals, names that refer to nothing."""
    problems = [] if results.rows else ["results.rows is empty; at least one row is needed"]
    problems += [] if "name" in results.machine else ["results.machine.name is missing"]
    counts = Counter(row.name for row in results.rows)
    problems += [f"row '{name}' occurs {n} times; names must differ" for name, n in counts.items() if n > 1]
    for row in results.rows:
        intervals = {
            **{phase: (row.timing(phase).low, row.timing(phase).high) for phase in PHASES},
            "perplexity": (row.perplexity_low, row.perplexity_high),
        }
        problems += [
            f"row '{row.name}': {what} interval has low {low} above high {high}"
            for what, (low, high) in intervals.items()
            if low > high
        ]
        problems += [
            f"row '{row.name}': budget '{key}' is unknown; {nearest(key, METRICS)}"
            for key in row.budget or {}
            if key not in METRICS
        ]
    foreign = sorted({layer.row for layer in results.layers} - set(counts))
    return problems + [f"layers name row '{name}', which is not there; {nearest(name, counts)}" for name in foreign]


def write_results(results: Results, run_dir: Path) -> Path:
    """Writes `results.json`, the inverse of `read_results`."""
    raw = asdict(results)
    for row, source in zip(raw["rows"], results.rows, strict=True):
        row["subnet"] = json.loads(source.subnet.to_json())
        for phase in PHASES:
            row[phase]["error"] = source.timing(phase).error
    path = run_dir / FILE
    write_text(path, json.dumps(raw, indent=1))
    return path
