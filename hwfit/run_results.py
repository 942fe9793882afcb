"""Run results: what a run found out, from its models' times and answers to results.json and its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from hwfit import __version__
from hwfit.bench import Bench, Times, deployed, judged, timed
from hwfit.evaluate.judge import Quality
from hwfit.evaluate.score import mean_accuracy
from hwfit.files import read_object
from hwfit.latency_models.breakdown import breakdown
from hwfit.lut_store.shipped import open_table
from hwfit.profiler.whole_models import stored_bytes
from hwfit.report.page import write_report
from hwfit.report.results import (
    KINDS,
    LayerTime,
    Results,
    Row,
    RowKind,
    Score,
    Stage,
    Step,
    Timing,
    Trajectory,
    write_results,
)
from hwfit.search.run import Choice
from hwfit.stages import Stages
from hwfit.subnet import Subnet
from hwfit.workload import PHASES

TRAINING_TEXT = "train splits of BoolQ passages, HellaSwag, PIQA and ARC"
"""What search and distillation read unless the user gives text."""


def conclude(
    bench: Bench,
    choices: Mapping[str, Choice],
    bundles: Mapping[str, Path],
    picked: str,
    stages: Stages,
    facts: Mapping[str, str],
) -> Results:
    """Export every bundle, time and judge all beside the original, and write results.json, report.html and pareto.png.

    `picked` names the choice that the run recommends; `facts` go to the provenance. Killed and called again, it goes on
    where it was.
    """
    with stages.stage("export", "Export"):
        folders = deployed(bench, bundles)
    with stages.stage("measure", "Measure what was exported, interleaved"):
        times = timed(bench, folders)
    with stages.stage("evaluate", "Judge on documents never seen"):
        quality = judged(bench, folders)
    subnets = {name: Subnet.load(folder / "subnet.json") for name, folder in folders.items()}
    assert bench.identity
    results = Results(
        model=bench.model,
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        machine=bench.identity.to_dict(),
        workload=bench.workload,
        rows=tuple(
            _row(bench, name, subnets[name], choices.get(name), times, quality[name], folder, name == picked)
            for name, folder in folders.items()
        ),
        search=tuple(t for choice in choices.values() for t in trajectories(choice)),
        stages=tuple(Stage(name, seconds) for name, seconds in stages.seconds.items()),
        layers=tuple(layer for name, subnet in subnets.items() for layer in _layers(bench, name, subnet)),
        provenance=_provenance(bench) | dict(facts),
    )
    write_results(results, bench.out)
    write_report(bench.out)
    return results


def trajectories(choice: Choice) -> Iterator[Trajectory]:
    """A search's log for the plots, once for each metric that its budget limits."""
    limits = choice.budget.limits if choice.budget and choice.log else ()
    for metric, limit in limits:
        told = f", {metric}" if len(limits) > 1 else ""
        yield Trajectory(
            f"{choice.name} ({choice.budget}){told}",
            tuple(
                Step(s.step, s.loss, s.expected[metric], limit, s.entropy, s.multipliers.get(metric, 0.0))
                for s in choice.log
            ),
        )


def _row(
    bench: Bench,
    name: str,
    subnet: Subnet,
    choice: Choice | None,
    times: Times,
    quality: Quality,
    folder: Path,
    picked: bool,
) -> Row:
    phases = {}
    for phase, t in times[name].items():
        predicted = bench.predicted(subnet, phase)
        phases[phase] = Timing(t.measured, t.low, t.high, predicted and predicted.value, t.raw)
    mean, stderr = mean_accuracy(quality.accuracy.values())
    return Row(
        name=name,
        kind=_kind(choice),
        decode=phases["decode"],
        prefill=phases["prefill"],
        size_bytes=stored_bytes(bench.device, folder),
        perplexity=quality.perplexity.value,
        perplexity_low=quality.perplexity.low,
        perplexity_high=quality.perplexity.high,
        subnet=subnet,
        weight_bits=subnet.mean_weight_bits,
        budget=choice.budget.as_dict() if choice and choice.budget else None,
        picked=picked,
        accuracy={task: Score(s.value, s.stderr, s.n) for task, s in quality.accuracy.items()},
        accuracy_mean=mean,
        accuracy_stderr=stderr,
    )


def _kind(choice: Choice | None) -> RowKind:
    """As rows are drawn: whatever decided widths and precisions together is joint."""
    kinds: dict[str, RowKind] = {kind: kind for kind in KINDS}
    return "original" if choice is None else kinds.get(choice.kind, "joint")


def _layers(bench: Bench, name: str, subnet: Subnet) -> Iterator[LayerTime]:
    for phase in PHASES:
        if bench.predicted(subnet, phase):
            for kind, seconds in breakdown(bench.latency, subnet, bench.workload.phase(phase)).items():
                yield LayerTime(name, phase, kind, seconds)


def _provenance(bench: Bench) -> dict[str, str]:
    told, exam = read_object(bench.path / "hwfit.json"), bench.exam
    return {
        "hwfit": __version__,
        "model": told.get("origin", bench.path.name),
        "device": bench.latency.lookup.device,
        "latency": "measured on this machine; p10 of interleaved rounds, corrected to the table's anchor",
        "held-out text": f"{exam.rows} x {exam.seq} tokens of BoolQ validation passages not in train",
        "accuracy": f"first {exam.documents} validation documents a task, 0-shot, lm-eval",
        "table": open_table(bench.tables).path.name,
    }
