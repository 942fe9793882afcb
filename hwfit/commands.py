"""The commands of the `hwfit` CLI as plain functions with the same parameters; each returns what it printed about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from json import dumps
from pathlib import Path

from rich.markup import escape
from rich.table import Table as RichTable

from hwfit.demo import DemoSettings, run_demo
from hwfit.evaluate_command import evaluate
from hwfit.export_command import export, generate
from hwfit.latency_models.active import most_telling
from hwfit.latency_models.load import load_latency
from hwfit.lut_store.table import Table
from hwfit.models import fetch as models
from hwfit.models.llama import load_config
from hwfit.pick_command import pick
from hwfit.predict_commands import advise, config_of, predict
from hwfit.profiler.anchor import Anchor
from hwfit.profiler.device_kinds import fingerprint, get_backend, get_deployer
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
from hwfit.search.study import training_device
from hwfit.search_command import search
from hwfit.space_files import AUTO
from hwfit.space_option import measurable, space_of
from hwfit.transfer_command import transfer
from hwfit.validate_command import validate
from hwfit.workload import PHASES, PhaseName, workload_of, workloads_of

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
    if whole_models:
        get_deployer(device)
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


def measure(
    target: Sequence[str],
    device: str = "cpu",
    tables: Path | None = None,
    seconds: float = 6.0,
    batch: int = 1,
    prompt: int = 128,
    context: int = 128,
) -> dict[str, dict[PhaseName, Timing]]:
    """Time deployed folders (on the CPU also .onnx files) on this machine, interleaved: `batch` sequences at a time,
    their prompts of `prompt` tokens, then one token of each at `context` tokens."""
    workload = workload_of(batch, prompt, context)
    found = {str(t): open_deployed(device, Path(t), workload) for t in target}
    anchor = Anchor.of_table(get_backend(device), fingerprint(device), Table(tables))
    times = time_models(found, workload, seconds, anchor)
    title = f"measured on {fingerprint(device).name}, {workload}"
    table = RichTable("", "decode ms", "prefill ms", "size MB", title=title)
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
