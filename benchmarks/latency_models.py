"""How well latency models predict shapes they have not seen, on published tables of GPUs and on this processor's own.

Five folds with whole (n, k) pairs held out, several seeds; the same folds for every contender, aiconfigurator's own
interpolation among them.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.aiconfigurator_own import aiconfigurator
from benchmarks.common import parser, publish
from hwfit.errors import HwfitError
from hwfit.latency_models import fitted
from hwfit.latency_models.cells import Cells
from hwfit.latency_models.contenders import CONTENDERS
from hwfit.latency_models.contest import FOLDS, HeldOut, hold_out
from hwfit.lut_store.aiconfigurator import import_aiconfigurator
from hwfit.lut_store.facts import facts_of
from hwfit.lut_store.shipped import SHIPPED, open_table
from hwfit.lut_store.table import Table
from hwfit.progress import track

DEVICES = {"a100": "a100-sxm", "h100": "h100-sxm", "h200": "h200-sxm", "l40s": "l40s"}
NAMES = {"fp16": "w16a16", "int4": "w4a16", "int8": "w8a16", "w8a8": "w8a8"}
ENTERED = CONTENDERS | {"aiconfigurator": aiconfigurator}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--device", action="append", choices=[*DEVICES, "cpu"], help="default: a100")
    arguments.add_argument("--tables", type=Path, help="with --device cpu [default: shipped]")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--precision", action="append", help="fp16, int4, …; of a CPU w8a8, … [default: all]")
    arguments.add_argument("--contender", action="append", choices=list(ENTERED), help="default: all")
    arguments.add_argument("--cells", action="store_true", help="hold single cells out too: their shape is known")
    options = arguments.parse_args()
    chosen = options.contender or list(ENTERED)
    figures: dict[str, float] = {}
    out = RichTable("device", "precision", "held out", "contender", "median", "±10 %", "answered", "coverage", "width")
    with tempfile.TemporaryDirectory() as folder:
        jobs = [(d, *job) for d in options.device or ["a100"] for job in device_cells(d, Table(folder), options.tables)]
        jobs = [job for job in jobs if job[1] in (options.precision or [job[1]])]
        modes = [True, False] if options.cells else [True]
        total = len(jobs) * len(chosen) * options.seeds * len(modes) * FOLDS
        with track(total, "contest") as advance:
            for device, name, cells in jobs:
                for grouped in modes:
                    for contender in chosen:
                        step = partial(advance, note=f"{device} {name}")
                        seeds = [
                            hold_out(contender, cells, seed, grouped, step, ENTERED) for seed in range(options.seeds)
                        ]
                        _note(figures, out, f"{device}.{name}{'' if grouped else '.cells'}", contender, seeds)
                    figures |= _ours(figures, f"{device}.{name}{'' if grouped else '.cells'}")
    Console(width=110).print(out)
    for device in options.device or ["a100"]:
        for what, source in (("coverage", "coverage.all"), ("width", "width")):
            values = [figures[k] for d, name, _ in jobs if d == device and (k := f"{d}.{name}.{source}") in figures]
            figures |= {f"{device}.{what}": float(np.mean(values))} if values else {}
    publish("latency_models", figures, options.json)


def device_cells(device: str, table: Table, own: Path | None = None) -> list[tuple[str, Cells]]:
    """The precisions of a device, with their cells."""
    if device == "cpu":
        table = open_table(own or SHIPPED)
        key = table.devices()[0]
        frame = table.read(key)
        names = {p: p for p in sorted(set(frame[frame["kind"] == "linear"]["precision"]))}
    else:
        imported = import_aiconfigurator(DEVICES[device], table)
        key, names = imported[-1].device, NAMES
        frame = table.read(key)
    facts = facts_of(table, key)
    found = []
    for name, precision in names.items():
        try:
            found.append((name, Cells.of(frame, precision, facts)))
        except HwfitError:
            continue
    return found


def _ours(figures: dict[str, float], key: str) -> dict[str, float]:
    """Under plain names the contender that `Fitted` would choose: the least median of those it enters."""
    entered = [f"{key}.{name.replace(' ', '_')}" for name in fitted.ENTERED]
    best = min((e for e in entered if f"{e}.median" in figures), key=lambda e: figures[f"{e}.median"], default=None)
    return {f"{key}.{k.removeprefix(f'{best}.')}": v for k, v in figures.items() if best and k.startswith(f"{best}.")}


def _note(figures: dict[str, float], out: RichTable, key: str, contender: str, seeds: list[HeldOut]) -> None:
    """Means over the seeds; the median is over what was answered."""
    device, name, *rest = key.split(".")
    medians = [float(np.nanmedian(held.errors)) for held in seeds]
    values = {
        "median": float(np.mean(medians)),
        "hit10": float(np.mean([held.within(0.1) for held in seeds])),
        "answered": float(np.mean([np.isfinite(held.predicted).mean() for held in seeds])),
        "width": float(np.mean([held.width() for held in seeds])),
    }
    cover = pd.DataFrame([held.coverage() for held in seeds]).mean()
    values |= {f"coverage.{regime}": float(value) for regime, value in cover.items()}
    figures |= {
        f"{key}.{contender.replace(' ', '_')}.{what}": value for what, value in values.items() if np.isfinite(value)
    }
    out.add_row(
        device,
        name,
        "cells" if rest else "shapes",
        contender,
        f"{values['median']:.2%} ± {np.ptp(medians) / 2:.2%}",
        f"{values['hit10']:.1%}",
        f"{values['answered']:.1%}",
        f"{values['coverage.all']:.1%}",
        f"{values['width']:.1%}",
    )


if __name__ == "__main__":
    main()
