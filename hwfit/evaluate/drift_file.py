"""Drift file: what `hwfit validate` found as JSON, kept beside the compressed model for reports and for CI."""

from __future__ import annotations

import json
import math
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from hwfit.deploy.staging import BUNDLE, MARK
from hwfit.evaluate.drift import Drift
from hwfit.evaluate.target import Target
from hwfit.files import write_text

FILE = "drift.json"


def drift_file(out: Path | None, compressed: Target) -> Path | None:
    """Where findings go: the .json file or the folder `out`, or else beside a subnet or an export of ours; None for
    other models."""
    if out is not None:
        return out if out.suffix == ".json" else out / FILE
    ours = any((compressed.folder / mark).is_file() for mark in (BUNDLE, MARK))
    return compressed.folder / FILE if ours and os.access(compressed.folder, os.W_OK) else None


def out_problems(out: Path) -> list[str]:
    """Why `drift_file` has no place in `out`."""
    fits = not out.is_dir() if out.suffix == ".json" else out.is_dir() or not (out.suffix or out.exists())
    return [] if fits else [f"--out {out}; allowed: a file that ends in .json, or a folder for {FILE}"]


def drift_dict(drift: Drift, compressed: Target) -> dict[str, Any]:
    """`Drift` as JSON values. `key` is the hash of the model's files, `device` what ran it: with other files the
    findings are another model's. What is no finite number is null."""
    created = datetime.now().astimezone().isoformat(timespec="seconds")
    return finite({**drift.to_dict(), "key": compressed.key, "device": compressed.device, "created": created})


def write_drift(path: Path, found: dict[str, Any]) -> None:
    write_text(path, json.dumps(found, indent=1, allow_nan=False))


def finite(value: Any) -> Any:
    """JSON values with null for each float that is no finite number."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
