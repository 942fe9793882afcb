"""The commands of the `hwfit` CLI as plain functions with the same parameters; each returns what it printed about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from json import dumps
from pathlib import Path

from rich.markup import escape
from rich.table import Table as RichTable

from hwfit.demo import DemoSettings, run_demo
from hwfit.errors import HwfitError, raise_all
from hwfit.evaluate_command import evaluate
from hwfit.export_command import export, generate
from hwfit.kernels.registry import device_names, get_backend
from hwfit.latency_models.active import most_telling
from hwfit.latency_models.load import load_latency
from hwfit.lut_store.table import Table
from hwfit.models import fetch as models
from hwfit.models.llama import load_config, open_model
from hwfit.pick_command import pick
from hwfit.plan_command import plan
from hwfit.predict_commands import advise, config_of, predict, workloads_of
from hwfit.profiler.anchor import Anchor
from hwfit.profiler.device import fingerprint
from hwfit.profiler.doctor import Finding, examine
from hwfit.profiler.preflight import preflight, refuse_precisions, refuse_too_large
from hwfit.profiler.run import ProfileReport
from hwfit.profiler.run import profile as profile_cells
from hwfit.profiler.subnets import profile_models
from hwfit.profiler.whole import Timing, time_models
from hwfit.profiler.whole_models import open_model as open_deployed
from hwfit.profiler.whole_models import stored_bytes
from hwfit.progress import out_console
from hwfit.report.page import write_report
from hwfit.report.results import Results, read_results
from hwfit.report.table import rich_table
from hwfit.search import parallel
from hwfit.search.budget import Budget
from hwfit.search.study import training_device
from hwfit.search.training import Training
from hwfit.search_run import SearchJob, run_search
from hwfit.space_files import AUTO
from hwfit.space_option import measurable, space_of
from hwfit.target_device import kind_of, target_device
from hwfit.transfer_command import transfer
from hwfit.validate_command import validate
from hwfit.workload import PHASES, PhaseName, Workload

COLOURS = {"good": "green", "warn": "yellow", "bad": "red"}


def fetch(name: str = "smollm2-135m") -> Path:
    """Download a known model and make a plain Hugging Face directory of it; the last line printed is its path."""
    path = models.fetch(name)
    print(path)
    return path


def profile(
    model: str | None = None,
    device: str = "cpu",
    tables: Path | None = None,
    minutes: float | None = None,
    precision: Sequence[str] = (),
    coarse: bool = False,
    whole_models: int = 16,
    allow_busy: bool = False,
    allow_mig: bool = False,
    config: Path | None = None,
    batch: Sequence[int] = (1,),
    prompt: Sequence[int] = (128,),
    context: int = 128,
    space: str = AUTO,
) -> ProfileReport:
    """Measure every layer shape of MODEL's search space on this machine into a table; rerunning resumes.

    `config` (a config.json) stands in for MODEL: no weights are needed. Every `batch` is measured with every `prompt`
    length, decode at `context` tokens; whole models are timed with the first of each. A GPU that others use, or in
    MIG mode, is refused without `allow_busy` or `allow_mig`. `space` is a preset's name or a .yaml file.
    """
    workloads = workloads_of(batch, prompt, context)
    preflight(device, allow_busy, allow_mig)
    path = config_of(model, config)
    wanted, workload = measurable(space_of(path, space, precision, device), device), workloads[0]
    refuse_precisions(device, wanted)
    if whole_models:
        refuse_too_large(device, wanted, workload)
    report = profile_cells(wanted, workloads, device, tables, minutes, coarse=coarse, order=most_telling)
    # rotary frequencies change no latency, so a config with scaled ones can be timed all the same
    plain = {key: value for key, value in load_config(path).items() if key not in ("rope_scaling", "rope_parameters")}
    profile_models(wanted, plain, workload, tables, device, whole_models)
    possible = report.planned - report.unsupported
    out_console.print(f"plan: the table has {report.measured + report.skipped} of {possible} cells that can run here")
    out_console.print(
        f"{report.measured} cells measured, {report.skipped} known before, {report.unsupported} cannot run here, "
        f"{report.unstable} unstable, {report.left} of {report.planned} left for want of time"
    )
    latency = load_latency(report.device, tables)
    for phase in PHASES:
        terms = latency.overhead.terms(phase)
        told = f"within {terms.error:.1%} of the sum of their layers" if terms.runs else "none timed"
        out_console.print(f"{phase}: whole models {told} ({terms.runs} runs)")
        if terms.resident:
            saved = f"up to {terms.resident / terms.scale:.0%} of their layers' time is saved"
            reads = f"models that read less than {terms.cache / 1e6:.0f} MB a call stay in the last cache in part"
            out_console.print(f"{phase}: {reads}: {saved}", soft_wrap=True)
    out_console.print(f"table: {report.table}, device {report.device}")
    return report


def search(
    model: str | None = None,
    budget: Sequence[str] = (),
    out: Path = Path("runs/search"),
    device: str = "cpu",
    tables: Path | None = None,
    text: Path | None = None,
    precision: Sequence[str] = (),
    steps: int = 16,
    distil_steps: int = 28,
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
    aim: float = 0.95,
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
    measured loss of `evaluations` of them (default: what a joint search measures). `aim` is the share of each budget
    that re-measured subnets are to use: the rest is for slower minutes of the device.
    """
    rates = (sequences, lr, supernet_lr, architecture_lr)
    rest = (checkpoint_minutes, tensorboard, strategy, evaluations, aim)
    training = Training(steps, distil_steps, *rates, distil, hidden, recompute, *rest)
    training.check()
    if dry_run:
        kind = device if device in device_names() else kind_of(device)
        plan(model, config, precision, kind, gpu_memory, training, train_on, space)
        return {}
    only = {"--config": config, "--gpu-memory": gpu_memory}
    raise_all([f"{flag} is for --dry-run alone; a search takes MODEL" for flag, value in only.items() if value])
    if model is None:
        raise HwfitError("MODEL is missing; give a known name (smollm2-135m), a directory, or a hub id")
    limits, trainer = Budget.parse(budget), parallel.start(training_device(train_on))
    out_console.quiet = not parallel.first()
    try:
        path = Path(parallel.from_first(lambda: str(open_model(model))))
        given, target = data or (str(text) if text else None), target_device(device, tables)
        rest = {"space": space, "precision": precision, "front": front, "judge": judge}
        return run_search(SearchJob(model, path, limits, out, target, trainer, training, tables, given, **rest))
    finally:
        out_console.quiet = False
        parallel.stop()


def measure(
    target: Sequence[str],
    device: str = "cpu",
    tables: Path | None = None,
    seconds: float = 6.0,
) -> dict[str, dict[PhaseName, Timing]]:
    """Time deployed folders (on the CPU also .onnx files) on this machine, interleaved."""
    found = {str(t): open_deployed(device, Path(t), Workload()) for t in target}
    anchor = Anchor.of_table(get_backend(device), fingerprint(device), Table(tables))
    times = time_models(found, Workload(), seconds, anchor)
    table = RichTable("", "decode ms", "prefill ms", "size MB", title=f"measured on {fingerprint(device).name}")
    for name, by_phase in times.items():
        cells = [
            f"{by_phase[p].p10 * 1e3:.2f} ({by_phase[p].low * 1e3:.2f}–{by_phase[p].high * 1e3:.2f})" for p in PHASES
        ]
        table.add_row(name, *cells, f"{stored_bytes(device, Path(name)) / 1e6:.1f}")
    out_console.print(table)
    return times


def doctor(device: str = "cpu", json: bool = False) -> list[Finding]:
    """Say what about this machine will show in measured latencies. Changes no setting."""
    findings = examine(device)
    if json:
        print(dumps([asdict(finding) for finding in findings]))
        return findings
    table = RichTable("", "found", "", "effect on figures", "what to do")
    for f in findings:
        verdict = f"[{COLOURS[f.verdict]}]{f.verdict}[/]"
        table.add_row(f.what, escape(f.found), verdict, escape(f.effect), escape(f.remedy))
    out_console.print(table)
    return findings


def report(run: Path) -> Path:
    """Write report.html and pareto.png of a finished run again and print its table."""
    page = write_report(run)
    out_console.print(rich_table(read_results(run)))
    print(page)
    return page


def demo(
    quick: bool = False,
    out: Path = Path("runs/demo"),
    model: str = "smollm2-135m",
    device: str = "cpu",
    tables: Path | None = None,
    train_on: str | None = None,
) -> Results:
    """The main job end to end: fetch, profile, search, distil, export, measure, judge, report."""
    settings = DemoSettings.quick() if quick else DemoSettings()
    return run_demo(model, out, settings, tables, device, train_on=training_device(train_on))


__all__ = [
    "advise",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "fetch",
    "generate",
    "measure",
    "pick",
    "predict",
    "profile",
    "report",
    "search",
    "transfer",
    "validate",
]
