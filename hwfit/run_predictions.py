"""Run predictions: what is known of a run's models whose device is not in this machine; nothing of it was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table as RichTable

from hwfit.bench import Bench, deployed, judged
from hwfit.evaluate.judge import Quality
from hwfit.evaluate.score import mean_accuracy
from hwfit.files import write_text
from hwfit.latency_models.estimate import Estimate
from hwfit.latency_models.memory import memory
from hwfit.progress import out_console
from hwfit.report.results import FILE as RESULTS
from hwfit.report.text import ms, significant
from hwfit.subnet import Subnet
from hwfit.workload import PHASES

FILE = "predicted.json"


def tell_predictions(bench: Bench, bundles: Mapping[str, Path], judge: bool) -> Path:
    """Print what every model is predicted to take on its device, write it as JSON, and say how it is measured there.

    With `judge` the models are asked here, and the original beside them.
    """
    folders = deployed(bench, bundles) if judge else dict(bundles)
    quality = judged(bench, folders) if judge else {}
    device, workload = bench.latency.lookup.device, bench.workload
    title = f"predicted for {device}, not measured"
    table = RichTable("", "decode ms", "prefill ms", "memory MB", "perplexity", "accuracy %", title=title, box=SIMPLE)
    models: dict[str, dict[str, Any]] = {}
    for name, folder in folders.items():
        subnet = Subnet.load(folder / "subnet.json")
        seconds = {phase: bench.predicted(subnet, phase) for phase in PHASES}
        size = memory(subnet, workload.context, workload.batch, device)
        models[name] = {phase: e and asdict(e) for phase, e in seconds.items()} | {"memory": size}
        if name in quality:
            models[name] |= _plain(quality[name])
        cells = [_between(seconds[phase]) for phase in PHASES]
        table.add_row(name, *cells, f"{size / 1e6:.1f}", *_quality(quality.get(name)))
    path = bench.out / FILE
    write_text(path, json.dumps({"device": device, "workload": asdict(workload), "models": models}, indent=1))
    out_console.print(table)
    first, on = next(iter(bundles.values())), bench.device
    command = " ".join([f"hwfit measure '{first}' --device {on}", *workload.options])
    told = (
        f"The device {device} is not in this machine: the latencies above and in {path} are predictions, and "
        f"{RESULTS}, which hwfit pick and hwfit report read, is not written, for it holds measured times. On a machine "
        f"with the device, `{command}` times a copy of that folder."
    )
    out_console.print(told, soft_wrap=True, highlight=False, markup=False)
    return path


def _between(e: Estimate | None) -> str:
    return "–" if e is None else f"{ms(e.value)} ({ms(e.low)}–{ms(e.high)})"


def _plain(quality: Quality) -> dict[str, Any]:
    mean, stderr = mean_accuracy(quality.accuracy.values())
    return {"perplexity": asdict(quality.perplexity), "accuracy": mean, "accuracy_stderr": stderr}


def _quality(quality: Quality | None) -> tuple[str, str]:
    if quality is None:
        return "–", "–"
    mean, stderr = mean_accuracy(quality.accuracy.values())
    return significant(quality.perplexity.value), f"{100 * mean:.1f} ± {100 * stderr:.1f}"
