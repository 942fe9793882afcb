"""Search run: one `hwfit search` from its table to its report, for this machine's device or one that is elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from json import dumps
from pathlib import Path

import torch

from hwfit.bench import Bench, questions
from hwfit.errors import HwfitError
from hwfit.evaluate.judge import Exam
from hwfit.latency_models.load import load_latency
from hwfit.latency_models.whole import WholeModel
from hwfit.models.generate import SELF_GENERATED
from hwfit.models.llama import load_config
from hwfit.plan_command import refuse_too_little_memory
from hwfit.profiler.subnets import p10s, time_subnets
from hwfit.profiler.whole_models import finish, finished
from hwfit.progress import out_console
from hwfit.report.page import PAGE
from hwfit.report.results import FILE, read_results
from hwfit.report.table import rich_table
from hwfit.run_predictions import tell_predictions
from hwfit.run_results import TRAINING_TEXT, conclude
from hwfit.search import parallel
from hwfit.search.baseline import fastest_uniform
from hwfit.search.budget import Budget
from hwfit.search.costs import predicted_cost
from hwfit.search.feasible import refuse_infeasible
from hwfit.search.run import Choice, Measure, distil_all, search_front
from hwfit.search.strategies.picks import uniform_precisions
from hwfit.search.study import StudySettings, prepare
from hwfit.search.training import Training
from hwfit.space import Space
from hwfit.space_option import priced, space_of
from hwfit.stages import Stages
from hwfit.subnet import Subnet
from hwfit.target_device import TargetDevice
from hwfit.workload import PHASES, Workload

FRONT_STEP = 1.25
TIGHTEST = "subnet"
"""The search result for the first budget as given."""
EXAM, SECONDS = Exam(), 6.0
"""What models are asked in the end, and how long each is timed."""


@dataclass(frozen=True)
class SearchJob:
    """What `hwfit search` was asked for, checked but for what needs the table. `path` is the folder of `model`."""

    model: str
    path: Path
    limits: tuple[Budget, ...]
    out: Path
    device: TargetDevice
    trainer: torch.device
    training: Training
    tables: Path | None = None
    data: str | None = None
    space: str = "auto"
    precision: Sequence[str] = ()
    front: int = 1
    judge: bool = True
    workload: Workload = Workload()

    @property
    def budgets(self) -> dict[str, Budget]:
        """The budgets as given, and looser ones of each."""
        names = [TIGHTEST, *(f"{TIGHTEST} {limits}" for limits in self.limits[1:])]
        steps = [FRONT_STEP**i for i in range(self.front)]
        return {
            f"{name} x{s:.3g}" if i else name: limits.scaled(s)
            for name, limits in zip(names, self.limits, strict=True)
            for i, s in enumerate(steps)
        }


def run_search(job: SearchJob) -> dict[str, Path]:
    """Search, distil, export, and with `judge` measure and judge; the folders of what was found. Killed and called
    again, it goes on. Under torchrun all processes train, and the first one does the rest."""
    device, workload, progress = job.device, job.workload, parallel.first()
    latency = load_latency(device.key, job.tables)
    opened = space_of(job.path, job.space, job.precision, device.kind, device.sm)
    space = priced(opened, latency, workload, job.model, device.kind, job.tables, job.precision, device.here)
    refuse_infeasible(job.limits, space, latency, workload)
    refuse_too_little_memory(job.path, space, job.training, job.trainer)
    parallel.from_first(lambda: _begin(job))
    stages = Stages.of(job.out) if progress else Stages()
    with stages.stage("search"):
        study = prepare(job.path, StudySettings(), job.out / "checkpoints", job.data, progress, job.trainer)
        study = replace(study, space=space)
        rules = job.training.search_settings(), job.out
        measure = _measuring(job, latency, progress)
        choices = search_front(study, latency, workload, job.budgets, measure, *rules, progress=progress)
    for name, by in [(name, by) for name, c in choices.items() if (by := c.beaten_by) and name != TIGHTEST]:
        out_console.print(f"{name} is not distilled: {by} takes no more and loses no more")
        del choices[name]
    baseline = _baseline(job, space, latency) if job.judge else {}
    with stages.stage("distil"):
        settings = job.training.distil_settings()
        folders = distil_all(study, choices | baseline, settings, job.out, progress=progress)
    if not parallel.first():
        return {name: folders[name] for name in choices}
    with stages.stage("export"):
        for name, choice in choices.items():
            if not finished(device.kind, folders[name]):
                finish(device.kind, folders[name], job.path, workload)
            out_console.print(_describe(choice.subnet))
            out_console.print(f"{folders[name]}")
    _conclude(job, latency, choices | baseline, folders, stages)
    return {name: folders[name] for name in choices}


def _baseline(job: SearchJob, space: Space, latency: WholeModel) -> dict[str, Choice]:
    """What a user would compare with, if the space has it; it is distilled like the rest."""
    if not uniform_precisions(space):
        return {}
    subnets = [fastest_uniform(space, latency, job.workload.phase(limits.phase)) for limits in job.limits]
    named = {f"uniform {subnet.precision[0][0]}": subnet for subnet in subnets}
    return {name: Choice(name, "uniform", None, subnet) for name, subnet in named.items()}


def _begin(job: SearchJob) -> None:
    """What has to be there at the end is looked for at the start. Raises `HwfitError` if it is not, or if the run
    folder is of another device or workload."""
    job.device.claim(job.out, job.workload)
    if job.judge and job.device.answers:
        try:
            questions(job.path, EXAM)
        except HwfitError as error:
            without = f"nothing can be judged without; --no-judge searches all the same, but writes no {FILE}"
            raise HwfitError([*error.problems, without]) from error


def _measuring(job: SearchJob, latency: WholeModel, progress: bool) -> Measure:
    """Seconds of subnets: timed where the device is here, else as predicted."""
    config = load_config(job.path)

    def timed(subnets: Mapping[str, Subnet]) -> dict[str, dict[str, float]]:
        return p10s(time_subnets(subnets, config, job.workload, job.tables, job.device.kind, progress=progress))

    def predicted(subnets: Mapping[str, Subnet]) -> dict[str, dict[str, float]]:
        return {name: predicted_cost(latency, job.workload, s, PHASES) for name, s in subnets.items()}

    return timed if job.device.here else predicted


def _conclude(
    job: SearchJob, latency: WholeModel, choices: Mapping[str, Choice], folders: Mapping[str, Path], stages: Stages
) -> None:
    """What is known in the end: results.json and its report, or the predictions where nothing can be timed."""
    device = job.device
    bench = Bench(
        model=job.model,
        path=job.path,
        out=job.out,
        device=device.kind,
        identity=device.identity,
        latency=latency,
        workload=job.workload,
        tables=job.tables,
        exam=EXAM,
        seconds=SECONDS,
    )
    if not device.here:
        tell_predictions(bench, folders, judge=job.judge and device.answers)
    elif not job.judge:
        out_console.print(
            f"--no-judge: {FILE}, which hwfit pick and hwfit report read, is not written; the same command without it "
            "goes on from here",
            soft_wrap=True,
        )
    else:
        text = {None: TRAINING_TEXT, SELF_GENERATED: "what the original itself writes"}.get(job.data, job.data)
        facts = {"training text": str(text), "settings": dumps(asdict(job.training))}
        conclude(bench, choices, folders, TIGHTEST, stages, facts)
        out_console.print(rich_table(read_results(job.out)))
        out_console.print(f"{job.out / PAGE}", soft_wrap=True)


def _describe(subnet: Subnet) -> str:
    least, most = min(subnet.mlp), max(subnet.mlp)
    mlp = f"{most}" if least == most else f"{least}–{most}"
    return (
        f"hidden {subnet.hidden}, {subnet.heads} heads of {subnet.head_size}, MLP {mlp}, "
        f"{len(subnet.blocks)} blocks, {subnet.mean_weight_bits:.1f} bits a weight, {subnet.weight_bytes / 1e6:.1f} MB"
    )
