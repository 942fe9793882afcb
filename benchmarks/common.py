"""What all benchmarks share: the JSON line, provenance, and where temporary tables go."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import onnxruntime
import torch
from rich.console import Console
from rich.table import Table

from hwfit import __version__
from hwfit.profiler.device_kinds import fingerprint


def parser(description: str | None) -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    out.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    return out


def publish(benchmark: str, figures: Mapping[str, float], as_json: bool) -> None:
    """Print the figures as a table and, with `as_json`, as the last line."""
    table = Table("figure", "value", title=f"{benchmark} on {fingerprint('cpu').name}")
    for name, value in figures.items():
        table.add_row(name, f"{value:.6g}")
    Console().print(table)
    if as_json:
        print(json.dumps({"benchmark": benchmark, "figures": dict(figures), "provenance": provenance()}))


def provenance() -> dict[str, str]:
    device = fingerprint("cpu")
    return {
        "hwfit": __version__,
        "commit": _commit(),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": device.name,
        "device": device.key,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
