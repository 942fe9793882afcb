"""Judges the contenders on every published table that can be imported, into `hwfit/data/contests`.

With what ships, `hwfit predict`, `advise` and `search` on those devices need not judge them first. What is there for
the same cells is kept; after a change of contenders or features run it with `--again`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.common import parser, publish
from hwfit.latency_models.cells import Cells
from hwfit.latency_models.fitted import judge
from hwfit.latency_models.verdict import read_verdict, shipped_contests, write_verdict
from hwfit.lut_store.aiconfigurator import device_names, import_aiconfigurator
from hwfit.lut_store.facts import facts_of
from hwfit.lut_store.table import Table
from hwfit.progress import track


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--again", action="store_true", help="judge anew what ships already")
    arguments.add_argument("--device", action="append", choices=device_names(), help="default: all")
    options = arguments.parse_args()
    figures: dict[str, float] = {}
    out = RichTable(
        "device", "precision", "cells", "winner", "median", "±10 %", title="one seed, whole shapes held out"
    )
    with tempfile.TemporaryDirectory() as folder:
        jobs = list(_jobs(options.device or device_names(), Table(Path(folder))))
    shipped_contests().mkdir(exist_ok=True)
    with track(len(jobs), "contests") as advance:
        for key, cells in jobs:
            advance(0, note=f"{key} {cells.precision}")
            verdict = None if options.again else read_verdict(shipped_contests(), key, cells)
            if verdict is None:
                verdict = judge(key, cells)
                write_verdict(shipped_contests(), key, cells, verdict)
            shares = f"{verdict.median:.2%}", f"{verdict.within10:.1%}"
            out.add_row(key, str(cells.precision), str(len(cells)), verdict.contender, *shares)
            figures[f"{key}.{cells.precision}.median"] = verdict.median
            advance()
    Console(width=110).print(out)
    publish("contests", figures, options.json)


def _jobs(devices: list[str], table: Table) -> list[tuple[str, Cells]]:
    """Each device and library version, at each precision measured on it."""
    found = []
    for device in devices:
        for key in [imported.device for imported in import_aiconfigurator(device, table)]:
            frame, facts = table.read(key), facts_of(table, key)
            linears = frame[(frame["kind"] == "linear") & (frame["p10"] > 0)]
            found += [(key, Cells.of(frame, p, facts)) for p in sorted(set(linears["precision"]))]
    return found


if __name__ == "__main__":
    main()
