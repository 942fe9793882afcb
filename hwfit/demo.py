"""Demo: the main job from end to end on the real model and this machine; rerunning resumes where it stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

import torch
from rich.console import Console

from hwfit import __version__
from hwfit.deploy.bundle import load_bundle, quantise_bundle
from hwfit.deploy.folder import ONNX, deploy, size_on_disk
from hwfit.deploy.runtime import OnnxModel
from hwfit.errors import HwfitError
from hwfit.evaluate.judge import Exam, Quality, heldout_tokens, judge_all
from hwfit.evaluate.score import mean_accuracy
from hwfit.files import write_text
from hwfit.kernels.registry import get_backend
from hwfit.latency_models.breakdown import breakdown
from hwfit.latency_models.load import load_latency
from hwfit.latency_models.whole import WholeModel
from hwfit.lut_store.table import Table
from hwfit.models.llama import load_config, load_shape, load_weights, open_model
from hwfit.profiler.anchor import Anchor
from hwfit.profiler.device import Fingerprint, fingerprint
from hwfit.profiler.protocol import Rules
from hwfit.profiler.run import profile
from hwfit.profiler.subnets import max_tokens, profile_models, time_subnets
from hwfit.profiler.whole import Timing, time_models
from hwfit.report.page import write_report
from hwfit.report.results import LayerTime, Results, Row, Score, Stage, Step, Trajectory, read_results, write_results
from hwfit.report.results import Timing as TimingRow
from hwfit.report.table import rich_table
from hwfit.search.budget import Budget
from hwfit.search.distil import DistilSettings
from hwfit.search.forward import CPU
from hwfit.search.optimise import SearchSettings
from hwfit.search.run import Choice, Measure, distil_all, search_front
from hwfit.search.study import Study, StudySettings, prepare
from hwfit.space import Space
from hwfit.subnet import Subnet
from hwfit.workload import PHASES, PhaseName, Workload

ORIGINAL = "original fp32"
UNIFORM = {"uniform w8": "w8a8g32", "uniform w4": "w4a8g32"}
MAIN = 0.85
"""The budget the demo is about, as a share of the uniform 4-bit model's decode latency."""


@dataclass(frozen=True)
class DemoSettings:
    """Budgets (`shares` of the uniform 4-bit model's decode latency), time and steps of every stage.

    The defaults take about 20 minutes on two cores.
    """

    shares: tuple[float, ...] = (1.0, MAIN, 0.7, 0.55)
    profile: Rules = Rules()
    whole_models: int = 10
    whole_seconds: float = 3.0
    study: StudySettings = StudySettings()
    search: SearchSettings = SearchSettings()
    distil: DistilSettings = DistilSettings()
    exam: Exam = Exam()
    measure_seconds: float = 6.0

    @classmethod
    def quick(cls) -> DemoSettings:
        """Every stage on the real model with as few steps as it takes to pass through it."""
        return cls(
            shares=(1.0, MAIN),
            profile=Rules(seconds=0.06, min_rounds=3, max_rounds=6),
            whole_models=3,
            whole_seconds=0.5,
            study=StudySettings(seq=64, train=8, validation=8, calibration=4),
            search=SearchSettings(
                weight_steps=1, steps=1, sequences=1, rank=2, candidates=1, trials=0, remeasure_rounds=1
            ),
            distil=DistilSettings(steps=1, sequences=2, lr=1e-5),
            exam=Exam(rows=2, seq=128, documents=2),
            measure_seconds=0.5,
        )


@dataclass
class Clock:
    """Seconds a stage took, kept in the run folder so that a resumed run adds up."""

    path: Path
    console: Console
    stages: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        self.console.rule(f"{title}", align="left")
        start = time.monotonic()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.monotonic() - start
            write_text(self.path, json.dumps(self.stages))

    @classmethod
    def of(cls, folder: Path, console: Console) -> Clock:
        path = folder / "stages.json"
        return cls(path, console, json.loads(path.read_text()) if path.exists() else {})


def run_demo(
    model: str,
    out: Path,
    settings: DemoSettings,
    tables: Path | None = None,
    device: str = "cpu",
    workload: Workload | None = None,
    progress: bool = True,
    console: Console | None = None,
    train_on: torch.device = CPU,
) -> Results:
    """fetch -> profile -> fit -> search -> distil -> export -> measure -> judge -> report, into the folder `out`."""
    console = console or Console(stderr=True)
    workload = workload or Workload()
    clock = Clock.of(out, console)
    with clock.stage("fetch", "1 Fetch the model"):
        path = open_model(model, progress)
    space, config = Space.default(load_shape(path)), load_config(path)
    print_ = fingerprint(device)
    with clock.stage("profile", "2 Profile this machine: what each linear costs at every width and precision"):
        report = profile(space, workload, device, tables, None, progress, coarse=True, rules=settings.profile)
        console.print(f"   {report.measured} cells measured, {report.skipped} known, {report.unsupported} cannot run")
        profile_models(
            space, config, workload, tables, device, settings.whole_models, settings.whole_seconds, progress=progress
        )
    with clock.stage("fit", "3 Fit the latency model"):
        latency = load_latency(print_.key, tables)
        budgets = kept_budgets(out / "budgets.json", demo_budgets(latency, space, workload, settings.shares))
        console.print(f"   budgets: {', '.join(map(str, budgets.values()))} (main: {budgets[_name(MAIN)]})")

    def measure(subnets: Mapping[str, Subnet]) -> dict[str, dict[str, float]]:
        times = time_subnets(subnets, config, workload, tables, device, settings.whole_seconds, progress)
        return {name: {phase: t.p10 for phase, t in by_phase.items()} for name, by_phase in times.items()}

    with clock.stage("search", "4 Search widths, depth and precisions together"):
        study = prepare(path, settings.study, out / "checkpoints", progress=progress, device=train_on)
        choices = _searched(study, latency, workload, budgets, measure, settings, out, progress)
    with clock.stage("distil", "5 Distil every subnet from the original"):
        bundles = distil_all(study, choices, settings.distil, out, progress=progress)
    with clock.stage("export", "6 Export to ONNX"):
        folders = _exported(path, space, bundles, out, workload)
    with clock.stage("measure", "7 Measure what was exported, interleaved"):
        models = {name: OnnxModel(folder / ONNX) for name, folder in folders.items()}
        anchor = Anchor.of_table(get_backend(device), print_, Table(tables))
        times = time_models(models, workload, settings.measure_seconds, anchor, progress)
        subnets = {name: m.subnet for name, m in models.items()}
        del models
    with clock.stage("evaluate", "8 Judge on documents never seen"):
        tokens = heldout_tokens(path, settings.exam, progress=progress)
        quality = judge_all(folders, settings.exam, tokens, progress=progress)
    rows = tuple(
        _row(name, subnets[name], choices.get(name), times[name], quality[name], folders[name], latency, workload)
        for name in folders
    )
    results = Results(
        model=model,
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        machine=print_.to_dict(),
        workload=workload,
        rows=rows,
        search=tuple(_trajectory(c) for c in choices.values() if c.log),
        stages=tuple(Stage(name, seconds) for name, seconds in clock.stages.items()),
        layers=tuple(
            LayerTime(name, phase, kind, seconds)
            for name, subnet in subnets.items()
            for phase in PHASES
            for kind, seconds in breakdown(latency, subnet, workload.phase(phase)).items()
        ),
        provenance=_provenance(path, settings, print_, report.table),
    )
    write_results(results, out)
    page = write_report(out)
    Console().print(rich_table(read_results(out)))
    console.print(f"[bold]{page}[/bold], {out / 'pareto.png'}, deployed models under {out / 'subnets'}")
    return results


def demo_budgets(latency: WholeModel, space: Space, workload: Workload, shares: Sequence[float]) -> dict[str, Budget]:
    """Decode budgets as `shares` of what the uniform 4-bit model is predicted to take, rounded to 10 us."""
    uniform = Subnet.whole(space.shape, UNIFORM["uniform w4"], space.embed)
    whole = latency.predict(uniform, workload.decode).value
    return {_name(share): Budget((("decode", round(whole * share, 5)),)) for share in shares}


def kept_budgets(path: Path, proposed: Mapping[str, Budget]) -> dict[str, Budget]:
    """The budgets a run was started with: a resumed run keeps them, whatever was measured since."""
    if not path.exists():
        write_text(path, json.dumps({name: budget.limits for name, budget in proposed.items()}))
    try:
        raw = json.loads(path.read_text())
        return {name: Budget(tuple((str(m), float(v)) for m, v in limits)) for name, limits in raw.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise HwfitError(f"{path}: damaged ({error}); delete it, or give --out another folder") from error


def _name(share: float) -> str:
    return f"joint {share:.0%}"


def _searched(
    study: Study,
    latency: WholeModel,
    workload: Workload,
    budgets: Mapping[str, Budget],
    measure: Measure,
    settings: DemoSettings,
    out: Path,
    progress: bool,
) -> dict[str, Choice]:
    """The uniform models, the joint front, and architecture-then-quantise at the main budget."""
    space = study.space
    uniform = {n: Choice(n, "uniform", None, Subnet.whole(space.shape, p, space.embed)) for n, p in UNIFORM.items()}
    sequential = {"sequential": budgets[_name(MAIN)]}
    return uniform | search_front(
        study, latency, workload, budgets, measure, settings.search, out, sequential, progress
    )


def _exported(model: Path, space: Space, bundles: Mapping[str, Path], out: Path, workload: Workload) -> dict[str, Path]:
    """Deployed folders of the original and every bundle; graphs that are newer than their bundle are kept."""
    folders = {ORIGINAL: out / "subnets" / ORIGINAL, **bundles}
    context = max(512, max_tokens(workload))
    if not (folders[ORIGINAL] / ONNX).exists():
        whole = quantise_bundle(load_weights(model), space.shape, load_config(model), Subnet.whole(space.shape))
        deploy(whole, model, folders[ORIGINAL], context)
    for name, folder in bundles.items():
        graph, weights = folder / ONNX, folder / "model.safetensors"
        if not graph.exists() or graph.stat().st_mtime < weights.stat().st_mtime:
            deploy(load_bundle(folder), model, folders[name], context)
    return folders


def _row(
    name: str,
    subnet: Subnet,
    choice: Choice | None,
    times: Mapping[PhaseName, Timing],
    quality: Quality,
    folder: Path,
    latency: WholeModel,
    workload: Workload,
) -> Row:
    phases = {
        phase: TimingRow(
            measured=t.p10,
            low=t.low,
            high=t.high,
            predicted=latency.predict(subnet, workload.phase(phase)).value,
            raw=t.raw,
        )
        for phase, t in times.items()
    }
    mean, stderr = mean_accuracy(quality.accuracy.values())
    return Row(
        name=name,
        kind=choice.kind if choice else "original",  # pyright: ignore[reportArgumentType]
        decode=phases["decode"],
        prefill=phases["prefill"],
        size_bytes=size_on_disk(folder),
        perplexity=quality.perplexity.value,
        perplexity_low=quality.perplexity.low,
        perplexity_high=quality.perplexity.high,
        subnet=subnet,
        weight_bits=subnet.mean_weight_bits,
        budget=choice.budget.as_dict() if choice and choice.budget else None,
        picked=name == _name(MAIN),
        accuracy={task: Score(s.value, s.stderr, s.n) for task, s in quality.accuracy.items()},
        accuracy_mean=mean,
        accuracy_stderr=stderr,
    )


def _trajectory(choice: Choice) -> Trajectory:
    """The first limit's share of a search log, for the plot."""
    assert choice.budget
    metric, limit = choice.budget.limits[0]
    return Trajectory(
        f"{choice.name} ({choice.budget})",
        tuple(
            Step(s.step, s.loss, s.expected[metric], limit, s.entropy, s.multipliers.get(metric, 0.0))
            for s in choice.log
        ),
    )


def _provenance(model: Path, settings: DemoSettings, device: Fingerprint, table: Path) -> dict[str, str]:
    origin = model / "hwfit.json"
    return {
        "hwfit": __version__,
        "model": json.loads(origin.read_text()).get("origin", str(model.name)) if origin.exists() else str(model.name),
        "device": device.key,
        "latency": "measured on this machine; p10 of interleaved rounds, corrected to the table's anchor",
        "training text": "train splits of BoolQ passages, HellaSwag, PIQA and ARC",
        "held-out text": f"{settings.exam.rows} x {settings.exam.seq} tokens of BoolQ validation passages not in train",
        "accuracy": f"first {settings.exam.documents} validation documents a task, 0-shot, lm-eval",
        "settings": json.dumps(asdict(settings)),
        "table": table.name,
    }
