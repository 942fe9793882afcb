"""python -m benchmarks.fuzz --minutes 5: damaged files of every kind are read or refused, never a traceback."""

from __future__ import annotations

import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.common import parser, provenance
from benchmarks.fuzz.harness import Outcome, fuzz
from benchmarks.fuzz.targets import TARGETS


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--minutes", type=float, default=5.0, help="for all targets together")
    options.add_argument("--only", nargs="+", choices=sorted(TARGETS), default=list(TARGETS), help="these targets")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument(
        "--keep", type=Path, default=Path("build/fuzz"), help="folder for the first example of a crash"
    )
    args = options.parse_args()
    share = 60 * args.minutes / len(args.only)
    outcomes = {name: _apart(name, args.keep.resolve(), share, args.seed) for name in args.only}
    crashes = _show(outcomes)
    if args.json:
        figures = {"crashes": crashes, "cases": sum(o.cases for o in outcomes.values())}
        for name, o in outcomes.items():
            figures |= {f"{name} {what}": getattr(o, what) for what in ("cases", "refused", "accepted", "crashed")}
        print(json.dumps({"benchmark": "fuzz", "figures": figures, "provenance": provenance()}))
    return 1 if crashes else 0


def _apart(name: str, keep: Path, seconds: float, start: int) -> Outcome:
    """`fuzz` in a process of its own, so that one that dies (a library's fault) counts as a crash."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([fuzz.__module__])  # torch and the rest are loaded once, not once a target
    with ProcessPoolExecutor(1, context) as pool:
        try:
            return pool.submit(fuzz, name, keep, seconds, start=start).result()
        except BrokenProcessPool as error:
            return Outcome(crashes={f"the process died: {error}": 1})


def _show(outcomes: dict[str, Outcome]) -> int:
    table = Table("target", "cases", "refused", "accepted", "crashes", title="damaged files, read by hwfit")
    for name, o in outcomes.items():
        table.add_row(name, *(f"{n:,}" for n in (o.cases, o.refused, o.accepted, o.crashed)))
    console = Console()
    console.print(table)
    for name, o in outcomes.items():
        for kind, count in o.crashes.items():
            console.print(f"{name}: {kind}, {count} times, first {o.first.get(kind, '(lost with it)')}", soft_wrap=True)
    return sum(o.crashed for o in outcomes.values())


if __name__ == "__main__":
    sys.exit(main())
