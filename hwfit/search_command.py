"""`hwfit search MODEL --budget decode=6ms`: from what was asked to a `SearchJob`, or to a memory plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hwfit.errors import HwfitError, raise_all
from hwfit.models.llama import open_model
from hwfit.plan_command import plan
from hwfit.profiler.device_kinds import DEVICES
from hwfit.progress import out_console
from hwfit.search import parallel
from hwfit.search.budget import Budget
from hwfit.search.study import training_device
from hwfit.search.training import Training
from hwfit.search_run import SearchJob, run_search
from hwfit.space_files import AUTO
from hwfit.target_device import kind_of, target_device
from hwfit.workload import workload_of


def search(
    model: str | None = None,
    budget: Sequence[str] = (),
    out: Path = Path("runs/search"),
    device: str = "cpu",
    tables: Path | None = None,
    text: Path | None = None,
    precision: Sequence[str] = (),
    steps: int | None = None,
    distil_steps: int = 40,
    front: int = 1,
    train_on: str | None = None,
    space: str = AUTO,
    data: str | None = None,
    judge: bool = True,
    sequences: int | None = None,
    distil: str = "full",
    hidden: float = 0.0,
    lr: float | None = None,
    supernet_lr: float | None = None,
    architecture_lr: float | None = None,
    recompute: bool = False,
    checkpoint_minutes: float = 5.0,
    tensorboard: bool = False,
    dry_run: bool = False,
    config: Path | None = None,
    gpu_memory: str | None = None,
    strategy: str = "joint",
    evaluations: int | None = None,
    rank_by: str | None = None,
    aim: float = 0.95,
    batch: int = 1,
    prompt: int = 128,
    context: int = 128,
    also: Sequence[str] = (),
) -> dict[str, Path]:
    """Search MODEL for the best subnet under every --budget at once, distil it and export it to OUT.

    `device` is what the budgets are about; `train_on` (cpu or cuda, by default a GPU where there is one) is what the
    search and distillation run on. `front` > 1 adds looser budgets from the same supernet, each `FRONT_STEP` times the
    one before. `space` is a preset's name or a .yaml file; `auto` gives up what the table cannot price. `data` is where
    training text comes from in place of the file `text` (see `study.prepare`). `judge` ends with all of it measured and
    judged beside the original and the fastest uniform model, in OUT/results.json and OUT/report.html; a device that is
    not in this machine (`device` may be any of the table) gets predictions. The options from `sequences` on are
    explained at `Training`. `dry_run` prints the memory plan and stops. Under torchrun all processes train, and the
    first one measures, writes and prints. Raises `HwfitError` before anything trains for budgets that cannot be met,
    too little memory or too little text. `strategy` is how subnets are chosen (`hwfit.search.strategies`), by the
    losses of `evaluations` of them (default: what a joint search asks for), ranked as `rank_by` says. `aim` is the
    share of each budget that re-measured subnets are to use: the rest is for slower minutes of the device. Budgets are
    on `batch` sequences at a time: their prompts of `prompt` tokens, then one token of each at `context` tokens. `also`
    are more budgets, several limits in each text, that the same supernet is searched for.
    """
    training = Training(
        steps=steps,
        distil_steps=distil_steps,
        sequences=sequences,
        lr=lr,
        supernet_lr=supernet_lr,
        architecture_lr=architecture_lr,
        distil=distil,
        hidden=hidden,
        recompute=recompute,
        checkpoint_minutes=checkpoint_minutes,
        tensorboard=tensorboard,
        strategy=strategy,
        evaluations=evaluations,
        rank_by=rank_by,
        aim=aim,
    )
    training.check()
    if dry_run:
        kind = device if device in DEVICES else kind_of(device)
        plan(
            model=model,
            config=config,
            precision=precision,
            device=kind,
            gpu_memory=gpu_memory,
            training=training,
            train_on=train_on,
            space=space,
        )
        return {}
    only = {"--config": config, "--gpu-memory": gpu_memory}
    raise_all([f"{flag} is for --dry-run alone; a search takes MODEL" for flag, value in only.items() if value])
    if model is None:
        raise HwfitError("MODEL is missing; give a known name (smollm2-135m), a directory, or a hub id")
    workload = workload_of(batch, prompt, context)
    limits = _budgets(budget, also)
    trainer = parallel.start(training_device(train_on))
    out_console.quiet = not parallel.first()
    try:
        path = Path(parallel.from_first(lambda: str(open_model(model))))
        job = SearchJob(
            model=model,
            path=path,
            limits=limits,
            out=out,
            device=target_device(device, tables),
            trainer=trainer,
            training=training,
            tables=tables,
            data=data or (str(text) if text else None),
            space=space,
            precision=precision,
            front=front,
            judge=judge,
            workload=workload,
        )
        return run_search(job)
    finally:
        out_console.quiet = False
        parallel.stop()


def _budgets(budget: Sequence[str], also: Sequence[str]) -> tuple[Budget, ...]:
    """The limits of --budget, which hold at once, and those of every --also. Raises `HwfitError` for all problems."""
    found, problems = [], []
    for flag, texts in (("--budget", budget), *(("--also", text.split()) for text in also)):
        try:
            found.append(Budget.parse(texts, flag))
        except HwfitError as error:
            problems += error.problems
    raise_all(problems)
    return tuple(found)
