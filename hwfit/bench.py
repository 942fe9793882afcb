"""Bench: a run's models deployed, timed in turns and judged; what is done is on disk and not done again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hwfit.deploy.bundle import quantise_bundle, save_bundle
from hwfit.errors import raise_all
from hwfit.evaluate.judge import Exam, Quality, heldout_tokens, judge_all
from hwfit.files import parse_json, write_text
from hwfit.latency_models.estimate import DataMiss, Estimate
from hwfit.latency_models.whole import WholeModel
from hwfit.lut_store.shipped import open_table
from hwfit.models.llama import load_config, load_shape, load_weights
from hwfit.profiler.anchor import Anchor
from hwfit.profiler.device import Fingerprint
from hwfit.profiler.device_kinds import get_backend
from hwfit.profiler.whole import time_models
from hwfit.profiler.whole_models import finish, finished, groups, open_model
from hwfit.progress import track
from hwfit.report.results import Timing
from hwfit.report.typed import decode
from hwfit.subnet import Subnet
from hwfit.workload import PHASES, PhaseName, Workload

ORIGINALS = {"cpu": ("original fp32", "w32"), "cuda": ("original 16-bit", "w16a16")}
"""By kind of device: the name and precision of what everything is compared with."""
TIMED = "timed.json"
Times = dict[str, dict[PhaseName, Timing]]


@dataclass(frozen=True)
class Bench:
    """Where a run's models are tried: `model` as the user named it and its folder, the run folder, the kind of device,
    its latency model and table, the workload, `seconds` of timing a model, and what the models are asked.

    `identity` is None for a device that is not in this machine, where nothing can be timed.
    """

    model: str
    path: Path
    out: Path
    device: str
    identity: Fingerprint | None
    latency: WholeModel
    workload: Workload
    tables: Path | None = None
    exam: Exam = Exam()
    seconds: float = 6.0
    progress: bool = True

    @property
    def original(self) -> str:
        """Name of the row of the original."""
        return ORIGINALS[self.device][0]

    def predicted(self, subnet: Subnet, phase: PhaseName) -> Estimate | None:
        """Of one forward call; None for what the table lacks, as an original whose precision was never profiled."""
        try:
            return self.latency.predict(subnet, self.workload.phase(phase))
        except DataMiss:
            return None


def deployed(bench: Bench, bundles: Mapping[str, Path]) -> dict[str, Path]:
    """Folders ready to run, by name: the original's first, then every bundle's. Raises as `finish`."""
    whole = bench.out / "subnets" / bench.original
    folders = {bench.original: whole, **bundles}
    with track(len(folders), "Exporting", bench.progress) as advance:
        for name, folder in folders.items():
            advance(0, note=name)
            if not finished(bench.device, folder):
                if folder == whole:
                    _save_original(bench, folder)
                finish(bench.device, folder, bench.path, bench.workload)
            advance()
    return folders


def timed(bench: Bench, folders: Mapping[str, Path]) -> Times:
    """Each model's times in both phases, without predictions. All are timed in turns, so one new model times them all.

    Latency depends on a subnet and not on its weights' values: models that are trained on are not timed again.
    """
    assert bench.identity
    path = bench.out / "checkpoints" / TIMED
    subnets = {name: Subnet.load(folder / "subnet.json") for name, folder in folders.items()}
    asked = {name: json.loads(subnet.to_json()) for name, subnet in subnets.items()}
    made = {"device": bench.identity.key, "workload": asdict(bench.workload), "seconds": bench.seconds}
    kept = kept_times(path, made)
    if all(name in kept and kept[name]["subnet"] == subnet for name, subnet in asked.items()):
        return {name: kept[name]["times"] for name in folders}
    anchor = Anchor.of_table(get_backend(bench.device), bench.identity, open_table(bench.tables))
    out: Times = {}
    for group in groups(bench.device, subnets, bench.workload):
        models = {name: open_model(bench.device, folders[name], bench.workload) for name in group}
        for name, by_phase in time_models(models, bench.workload, bench.seconds, anchor, bench.progress).items():
            out[name] = {phase: Timing(t.p10, t.low, t.high, raw=t.raw) for phase, t in by_phase.items()}
        models.clear()  # the next group needs their memory
    times = {name: {phase: asdict(t) for phase, t in by_phase.items()} for name, by_phase in out.items()}
    models = {name: {"subnet": asked[name], "times": times[name]} for name in folders}
    write_text(path, json.dumps({**made, "models": models}))
    return out


def judged(bench: Bench, folders: Mapping[str, Path]) -> dict[str, Quality]:
    """What each model is worth on documents never seen; kept beside each."""
    with track(len(folders), "Judging", bench.progress) as advance:
        out = {}
        tokens = questions(bench.path, bench.exam, bench.progress)
        for name, folder in folders.items():
            advance(0, note=name)
            out |= judge_all({name: folder}, bench.exam, tokens, progress=bench.progress, device=bench.device)
            advance()
    return out


def questions(model: Path, exam: Exam, progress: bool = True) -> Tensor:
    """Held-out tokens `[rows, seq]`; the benchmarks' documents are fetched as well.

    Raises `HwfitError` if they are not to be had.
    """
    from hwfit.evaluate.lm_harness import checked_folder  # lm-eval takes seconds to load

    tokens = heldout_tokens(model, exam, progress=progress)
    checked_folder(exam.tasks, exam.documents, progress)
    return tokens


def _save_original(bench: Bench, folder: Path) -> None:
    shape, precision = load_shape(bench.path), ORIGINALS[bench.device][1]
    whole = Subnet.whole(shape, precision)
    save_bundle(quantise_bundle(load_weights(bench.path), shape, load_config(bench.path), whole), folder)


def kept_times(path: Path, made: Mapping[str, Any]) -> dict[str, Any]:
    """By name the subnet and times of models timed under the very same conditions `made`; none without the file.

    Raises `HwfitError` for a damaged file.
    """
    if not path.exists():
        return {}
    problems: list[str] = []
    models: dict[str, Any] = {}
    try:
        raw = parse_json(path.read_text())
        if {key: raw[key] for key in made} != dict(made):
            return {}
        for name, model in raw["models"].items():
            times = {phase: decode(Timing, model["times"][phase], f"{name}.{phase}", problems) for phase in PHASES}
            models[name] = {"subnet": model["subnet"], "times": times}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problems.append(f"{type(error).__name__}: {error}")
    raise_all([f"{path}: damaged ({p}); delete it to time the models again" for p in problems])
    return models
