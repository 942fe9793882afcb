"""One row of a table (`Measurement`), who measured it (`RunInfo`), and both as Arrow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import pyarrow as pa

from hwfit.files import is_number, parse_json
from hwfit.kernels.op import Op
from hwfit.precision import Precision

PROTOCOL = 3
"""Version of the timing protocol; values of different protocols are never mixed."""

Status = Literal["OK", "UNSUPPORTED", "UNSTABLE"]

_OP = pa.schema(
    [
        ("kind", pa.string()),
        ("m", pa.int64()),
        ("n", pa.int64()),
        ("k", pa.int64()),
        ("precision", pa.string()),
        ("head_size", pa.int64()),
        ("context", pa.int64()),
    ]
)
OP_COLUMNS: tuple[str, ...] = tuple(_OP.names)
TIMES = ("p10", "p50", "p90", "mean", "std", "half_width", "raw_p10")
PACES = ("stream", "compute", "pace", "pace_reference")

SCHEMA = pa.schema(
    [
        *_OP,
        ("weight_bits", pa.int64()),
        ("act_bits", pa.int64()),
        ("group", pa.int64()),  # 0: one scale an output channel, or none
        ("scheme", pa.string()),  # float, symmetric or asymmetric
        *((name, pa.float64()) for name in TIMES),  # seconds
        *((name, pa.float64()) for name in PACES),  # of the anchors: seconds a byte, then seconds a multiply-add
        ("samples", pa.int64()),
        ("copies", pa.int64()),
        ("energy", pa.float64()),  # joules, null where the device has no counter
        ("weight_bytes", pa.int64()),
        ("status", pa.string()),
        ("note", pa.string()),
        ("protocol", pa.int64()),
        ("device", pa.string()),
        ("backend", pa.string()),
        ("kernel", pa.string()),
        ("run_id", pa.string()),
        ("measured_at", pa.float64()),  # seconds since 1970
    ]
)


def op_of(row: Mapping[Any, Any]) -> Op:
    """The op that a row's columns describe."""
    return Op(**{name: row[name] for name in OP_COLUMNS})


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one op costs on one device, in seconds a call, or why it cannot be said.

    `p10` is the value to use; `half_width` is half of its 95 % bootstrap interval. All times but `raw_p10` are
    corrected for drift: the anchors ran at `pace` when the op was timed, and times are given as of `pace_reference`
    (seconds a multiply-add, a mean over several anchors). For the record, a byte of memory took `stream` seconds then
    and a multiply-add of the fastest anchor `compute`. A cell without times is `UNSUPPORTED`, one whose interval stayed
    wide is `UNSTABLE`; `note` says why.
    """

    op: Op
    status: Status
    device: str
    backend: str
    kernel: str = ""
    run_id: str = ""
    measured_at: float = 0.0
    p10: float | None = None
    p50: float | None = None
    p90: float | None = None
    mean: float | None = None
    std: float | None = None
    half_width: float | None = None
    raw_p10: float | None = None
    stream: float | None = None
    compute: float | None = None
    pace: float | None = None
    pace_reference: float | None = None
    samples: int = 0
    copies: int = 0
    energy: float | None = None
    weight_bytes: int = 0
    note: str = ""
    protocol: int = PROTOCOL

    def to_row(self) -> dict[str, Any]:
        """The row of `SCHEMA`, with the precision's bits, group and scheme spelled out."""
        p = Precision.parse(self.op.precision)
        row = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "op"}
        scheme = "float" if p.is_float else "symmetric" if p.symmetric else "asymmetric"
        bits = {"weight_bits": p.weight_bits, "act_bits": p.act_bits, "group": p.group or 0, "scheme": scheme}
        return {**asdict(self.op), **bits, **row}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Measurement:
        """Inverse of `to_row`."""
        return cls(op=op_of(row), **{f.name: row[f.name] for f in fields(cls) if f.name != "op"})


def to_arrow(measurements: Sequence[Measurement]) -> pa.Table:
    return pa.Table.from_pylist([m.to_row() for m in measurements], schema=SCHEMA)


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """Who measured: device fingerprint, library versions, code, load. Stored in the metadata of every part."""

    run_id: str
    device: str
    fingerprint: Mapping[str, Any]
    versions: Mapping[str, str]
    commit: str
    load: float
    started: float

    @property
    def hash(self) -> str:
        """Hex digest of what should make two runs repeat each other: fingerprint, versions and commit."""
        same = {"fingerprint": dict(self.fingerprint), "versions": dict(self.versions), "commit": self.commit}
        return hashlib.sha256(json.dumps(same, sort_keys=True, default=str).encode()).hexdigest()

    def to_json(self) -> str:
        return json.dumps({**{f.name: getattr(self, f.name) for f in fields(self)}, "hash": self.hash}, default=str)

    @classmethod
    def from_json(cls, text: str | bytes) -> RunInfo:
        """Inverse of `to_json`; raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        raw = parse_json(text)
        run = cls(**{f.name: raw[f.name] for f in fields(cls)})
        texts = (run.run_id, run.device, run.commit)
        if not (
            all(isinstance(t, str) for t in texts) and isinstance(run.fingerprint, dict) and is_number(run.started)
        ):
            raise ValueError("run_id, device and commit must be text, fingerprint an object, started a number")
        return run
