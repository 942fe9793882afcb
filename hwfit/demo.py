"""Demo: the main job from end to end on the real model and this machine; rerunning resumes where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console

from hwfit.bench import Bench
from hwfit.errors import HwfitError
from hwfit.evaluate.judge import Exam
from hwfit.files import parse_json, write_text
from hwfit.latency_models.load import load_latency
from hwfit.latency_models.whole import WholeModel
from hwfit.models.llama import load_config, load_shape, open_model
from hwfit.profiler.device_kinds import fingerprint
from hwfit.profiler.protocol import Rules
from hwfit.profiler.run import profile
from hwfit.profiler.subnets import p10s, profile_models, time_subnets
from hwfit.report.page import PAGE
from hwfit.report.results import Results, read_results
from hwfit.report.table import rich_table
from hwfit.run_results import TRAINING_TEXT, conclude
from hwfit.search.budget import Budget
from hwfit.search.choice import Choice
from hwfit.search.costs import predicted_cost
from hwfit.search.distil import DistilSettings
from hwfit.search.forward import CPU
from hwfit.search.optimise import SearchSettings
from hwfit.search.run import Measure, distil_all, search_front
from hwfit.search.study import Study, StudySettings, prepare
from hwfit.search.training import Training
from hwfit.space import Space
from hwfit.stages import Stages
from hwfit.subnet import Subnet
from hwfit.workload import Workload

UNIFORM = {"uniform w8": "w8a8g32", "uniform w4": "w4a8g32"}
"""Both are shown and budgets are shares of the 4-bit one, whichever is faster: runs mean the same on every machine."""
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
    search: SearchSettings = Training().search_settings()
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
    stages = Stages.of(out, console)
    with stages.stage("fetch", "Fetch the model"):
        path = open_model(model, progress)
    space, config = Space.default(load_shape(path)), load_config(path)
    print_ = fingerprint(device)
    with stages.stage("profile", "Profile this machine: what each linear costs at every width and precision"):
        report = profile(space, workload, device, tables, None, progress, coarse=True, rules=settings.profile)
        console.print(f"   {report.measured} cells measured, {report.skipped} known, {report.unsupported} cannot run")
        profile_models(
            space, config, workload, tables, device, settings.whole_models, settings.whole_seconds, progress=progress
        )
    with stages.stage("fit", "Fit the latency model"):
        latency = load_latency(print_.key, tables)
        budgets = kept_budgets(out / "budgets.json", demo_budgets(latency, space, workload, settings.shares))
        console.print(f"   budgets: {', '.join(map(str, budgets.values()))} (main: {budgets[_name(MAIN)]})")

    def measure(subnets: Mapping[str, Subnet]) -> dict[str, dict[str, float]]:
        return p10s(time_subnets(subnets, config, workload, tables, device, settings.whole_seconds, progress))

    with stages.stage("search", "Search widths, depth and precisions together"):
        study = prepare(path, settings.study, out / "checkpoints", progress=progress, device=train_on)
        choices = _searched(study, latency, workload, budgets, measure, settings, out, progress)
    with stages.stage("distil", "Distil every subnet from the original"):
        bundles = distil_all(study, choices, settings.distil, out, progress=progress)
    bench = Bench(
        model=model,
        path=path,
        out=out,
        device=device,
        identity=print_,
        latency=latency,
        workload=workload,
        tables=tables,
        exam=settings.exam,
        seconds=settings.measure_seconds,
        progress=progress,
    )
    facts = {"training text": TRAINING_TEXT, "settings": json.dumps(asdict(settings))}
    results = conclude(bench, choices, bundles, _name(MAIN), stages, facts)
    Console().print(rich_table(read_results(out)))
    console.print(f"[bold]{out / PAGE}[/bold], {out / 'pareto.png'}, deployed models under {out / 'subnets'}")
    return results


def demo_budgets(latency: WholeModel, space: Space, workload: Workload, shares: Sequence[float]) -> dict[str, Budget]:
    """Decode budgets as `shares` of what the uniform 4-bit model is predicted to take, rounded to 10 us."""
    uniform = Subnet.whole(space.shape, UNIFORM["uniform w4"], space.embed)
    whole = predicted_cost(latency, workload, uniform, ["decode"])["decode"]
    return {_name(share): Budget((("decode", round(whole * share, 5)),)) for share in shares}


def kept_budgets(path: Path, proposed: Mapping[str, Budget]) -> dict[str, Budget]:
    """The budgets a run was started with: a resumed run keeps them, whatever was measured since."""
    if not path.exists():
        write_text(path, json.dumps({name: budget.limits for name, budget in proposed.items()}))
    try:
        raw = parse_json(path.read_text())
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
