"""Measure: which rung of each ladder holds its budget on this processor, cell by cell, the methods in turns."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.joint_vs_sequential.plan import Folder, Job, digest, read_json, subnet_of
from benchmarks.joint_vs_sequential.rungs import Measure, Rung, settled
from hwfit.errors import HwfitError
from hwfit.files import write_text
from hwfit.models.llama import load_config, load_shape
from hwfit.search.methods import METHODS
from hwfit.space import Space
from hwfit.subnet import Subnet

REFERENCES = "references"
"""The cell of what is not searched: the original and whole models at one precision."""
ORIGINAL = "original"


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds a model and round")
    parser.add_argument("--again", action="store_true", help="time what was distilled anew, in turns; choose nothing")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of choosing a cell at most")
    parser.add_argument("--tolerance", type=float, default=0.03, help="how far above its budget one may be measured")


def run(folder: Folder, options: Namespace) -> int:
    """Returns how many cells are left: none."""
    from hwfit.profiler.device_kinds import fingerprint  # only here: the other stages run where nothing is timed
    from hwfit.profiler.subnets import time_subnets

    plan, config = folder.plan(), load_config(folder.config)
    if (here := fingerprint("cpu").key) != plan.device:
        raise HwfitError(f"budgets are for {plan.device} and this is {here}; measure there, or prepare again here")

    def measured(subnets: Mapping[str, Subnet]) -> dict[str, dict[str, Any]]:
        times = time_subnets(subnets, config, plan.workload, folder.tables, "cpu", options.seconds)
        return {
            name: {phase: {"p10": t.p10, "low": t.low, "high": t.high} for phase, t in by_phase.items()}
            for name, by_phase in times.items()
        }

    if options.again or not folder.measured(REFERENCES).exists():
        subnets = references(folder)
        times = measured(subnets)
        rows = {n: {"subnet": json.loads(s.to_json()), "measured": times[n]} for n, s in subnets.items()}
        write_text(folder.measured(REFERENCES), json.dumps(rows))
    for cell in dict.fromkeys(job.cell for job in plan.jobs()):
        jobs = [job for job in plan.jobs() if job.cell == cell and folder.found(job.name).exists()]
        if jobs and (options.again or not folder.measured(cell).exists()):
            print(f"{cell}: {len(jobs)} searches")
            write_text(folder.measured(cell), json.dumps(_cell(folder, jobs, measured, options)))
    return 0


def _cell(folder: Folder, jobs: list[Job], measured: Measure, options: Namespace) -> dict[str, Any]:
    """Every job's largest rung that holds the budget, chosen in rounds; then all chosen are timed in turns."""
    phase, limit = jobs[0].phase, folder.plan().limit(jobs[0])
    if options.again:
        chosen = {job.name: r for job in jobs if (r := distilled(folder, job))}
    else:
        ladders = {job.name: ladder(folder, job) for job in jobs}
        chosen = settled({n: r for n, r in ladders.items() if r}, phase, limit, measured, options.rounds)
    times = measured({name: rung.subnet for name, rung in chosen.items()}) if chosen else {}
    out: dict[str, Any] = {}
    for job in jobs:
        if reason := read_json(folder.found(job.name), "search").get("infeasible"):
            out[job.name] = {"infeasible": reason}
    for name, rung in chosen.items():
        out[name] = {
            "share": rung.share,
            "subnet": json.loads(rung.subnet.to_json()),
            "predicted": rung.predicted,
            "loss": rung.loss,
            "measured": times[name],
            "held": times[name][phase]["p10"] <= limit * (1 + options.tolerance),
        }
    return out


def ladder(folder: Folder, job: Job) -> list[Rung]:
    """Largest share first."""
    found = read_json(folder.found(job.name), "search")["rungs"]
    return [Rung(r["share"], subnet_of(r["subnet"]), r["predicted"][job.phase], r["loss"]) for r in found]


def distilled(folder: Folder, job: Job) -> Rung | None:
    """The rung that was chosen, if it was distilled; where nothing was measured before, the largest that was."""
    path, rungs = folder.measured(job.cell), ladder(folder, job)
    if path.exists():
        row = read_json(path, "measure").get(job.name, {})
        rungs = [r for r in rungs if r.share == row.get("share")]
    done = (r for r in rungs if folder.quality(quality_name(r.subnet, job.seed)).exists())
    return next(done, None)


def references(folder: Folder) -> dict[str, Subnet]:
    """The original, and the whole model at each precision that the budgets refer to."""
    shape = load_shape(folder.config)
    embed = Space.default(shape).embed
    uniform = dict.fromkeys(folder.plan().uniform.values())
    return {ORIGINAL: Subnet.whole(shape), **{f"uniform {p}": Subnet.whole(shape, p, embed) for p in uniform}}


def quality_name(subnet: Subnet, seed: int) -> str:
    """The file of a distilled subnet; what several methods found alike is distilled once."""
    return f"{digest(subnet)}.s{seed}"


def chosen_subnets(
    folder: Folder, methods: Sequence[str] = tuple(METHODS), unmeasured: float | None = None
) -> dict[str, Subnet]:
    """`quality_name -> subnet` of all that is to be distilled: what `measure` chose, or the rung `unmeasured`."""
    plan = folder.plan()
    out: dict[str, Subnet] = {}
    for job in plan.jobs(methods):
        if unmeasured is not None:
            rungs = ladder(folder, job) if folder.found(job.name).exists() else []
            subnets = [r.subnet for r in rungs if r.share <= unmeasured][:1]
        else:
            row = read_json(folder.measured(job.cell), "measure").get(job.name, {})
            subnets = [subnet_of(row["subnet"])] if "subnet" in row else []
        out |= {quality_name(s, job.seed): s for s in subnets}
    return out | {quality_name(subnet, 0): subnet for subnet in references(folder).values()}
