"""How far the value of a cell moves between processes while another program comes and goes on one core."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import numpy as np

from benchmarks.common import parser, publish
from hwfit.models.llama import load_shape, open_model
from hwfit.profiler.anchor import Anchor, Work
from hwfit.profiler.device_kinds import fingerprint, get_backend
from hwfit.profiler.plan import plan
from hwfit.profiler.protocol import batches, default_rules, measure
from hwfit.profiler.run import steady
from hwfit.progress import track
from hwfit.space import Space
from hwfit.workload import Workload

BURST = 5.0
"""Seconds that the other program runs, and rests, in turns."""
BUSY = "while True: pass"
FEWEST = 3
"""Processes that must report a cell, rather than mark it UNSTABLE, for its spread to count."""


@contextmanager
def disturbance() -> Iterator[None]:
    """One core is kept busy every other `BURST` seconds."""
    done = threading.Event()
    program = subprocess.Popen([sys.executable, "-c", BUSY])

    def alternate() -> None:
        while not done.wait(BURST):
            program.send_signal(signal.SIGSTOP)
            done.wait(BURST)
            program.send_signal(signal.SIGCONT)

    thread = threading.Thread(target=alternate)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        program.kill()
        program.wait()


def child(model: str, cells: int, reference: dict[Work, float]) -> None:
    """One process: measure the cells; print name -> p10, None where it is UNSTABLE, and paces."""
    space, backend, rules = Space.default(load_shape(open_model(model))), get_backend("cpu"), default_rules("cpu")
    l3 = fingerprint("cpu").l3
    ops = [cell.op for cell in plan(space, Workload(), backend) if cell.stage == "coarse" and not cell.why_not]
    chosen = sorted(random.Random(40).sample(ops, min(cells, len(ops))))
    anchor = Anchor(backend, l3, reference)
    anchor.calibrate()
    readings = [r for group in batches(chosen, backend, l3, rules) for r in measure(group, backend, anchor, l3, rules)]
    print(json.dumps({str(r.op): r.summary.p10 if steady(r, rules) else None for r in readings}))
    print(json.dumps([asdict(r.correction.pace) for r in readings]))
    print(json.dumps(anchor.reference))


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--model", default="smollm2-135m")
    arguments.add_argument("--cells", type=int, default=40)
    arguments.add_argument("--processes", type=int, default=5)
    arguments.add_argument("--child", help="(internal) one of the processes, and the pace its values refer to")
    options = arguments.parse_args()
    if options.child:
        return child(options.model, options.cells, json.loads(options.child))
    values: dict[str, list[float]] = {}
    marked: Counter[str] = Counter()
    paces: dict[str, list[float]] = {}
    reference = "{}"
    with disturbance():
        command = [sys.executable, "-m", "benchmarks.repeatability", "--model", options.model]
        command += ["--cells", str(options.cells), "--child"]
        with track(options.processes, "Processes") as advance:
            for _ in range(options.processes):
                done = subprocess.run([*command, reference], stdout=subprocess.PIPE, text=True, check=True)
                readings, seen, reference = done.stdout.splitlines()[-3:]
                for pace in json.loads(seen):
                    for part, value in pace.items():
                        paces.setdefault(part, []).append(value)
                for name, value in json.loads(readings).items():
                    known = values.setdefault(name, [])
                    if value is None:
                        marked[name] += 1
                    else:
                        known.append(value)
                advance()
    spread = {name: (max(v) - min(v)) / float(np.median(v)) for name, v in values.items() if len(v) >= FEWEST}
    settled = np.array(list(spread.values()))
    for name in sorted(spread, key=lambda n: -spread[n])[:8]:
        print(f"{spread[name]:6.1%}  {f'({marked[name]} UNSTABLE) ' if marked[name] else ''}{name}")
    figures = {
        "cells": float(len(values)),
        "readings.unstable": float(marked.total()),
        "cells.compared": float(len(spread)),
        "spread.median": float(np.median(settled)),
        "spread.p90": float(np.quantile(settled, 0.9)),
        "spread.worst": float(settled.max()),
    }
    figures |= {f"pace.{name}": max(found) / min(found) for name, found in paces.items()}  # slowest over fastest
    publish("repeatability", figures, options.json)


if __name__ == "__main__":
    main()
