"""Search: a ladder of subnets for every method, budget and seed, from one supernet a seed."""

from __future__ import annotations

import gc
import json
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.joint_vs_sequential.plan import Folder, Job
from benchmarks.joint_vs_sequential.pool import run_jobs
from hwfit.errors import HwfitError
from hwfit.files import write_text
from hwfit.latency_models.load import load_latency
from hwfit.models.llama import open_model
from hwfit.search.joint import Searcher
from hwfit.search.methods import METHODS
from hwfit.search.optimise import DAMAGES, RANKINGS, SearchSettings
from hwfit.search.study import StudySettings, study_of, training_device

TRAIN = 512
"""Training sequences the shared weights see, of those a seed has."""
SHARES = [1.0, 0.96, 0.92, 0.88, 0.82]
FINE = [round(1.1 - 0.01 * i, 2) for i in range(25)]
"""A miss moves a subnet by what it missed, up or down: these are a per cent apart."""
READY = "supernet.json"


@dataclass(frozen=True)
class SearchTask:
    """What every worker that searches is given."""

    folder: Folder
    model: Path
    device: torch.device
    settings: SearchSettings
    shares: tuple[float, ...]
    fine: tuple[float, ...]


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="rungs searched in full")
    parser.add_argument("--fine", type=float, nargs="*", default=FINE, help="rungs picked again from where those ended")
    parser.add_argument("--weight-steps", type=int, default=0, help="for --rank-by losses, such as 24")
    parser.add_argument("--steps", type=int, default=0, help="architecture steps a search, for --rank-by losses")
    parser.add_argument("--sequences", type=int, default=4, help="sequences a step")
    parser.add_argument("--judged", type=int, default=16, help="sequences that damages and losses are measured on")
    parser.add_argument("--rank-by", default=DAMAGES, choices=RANKINGS, help="what picks are compared by")
    parser.add_argument("--candidates", type=int, default=6)
    parser.add_argument("--trials", type=int, default=18)


def _task(folder: Folder, options: Namespace) -> SearchTask:
    settings = SearchSettings(
        weight_steps=options.weight_steps,
        steps=options.steps,
        sequences=options.sequences,
        judged=options.judged,
        candidates=options.candidates,
        trials=options.trials,
        rank_by=options.rank_by,
    )
    shares, device = tuple(sorted(options.shares, reverse=True)), training_device(options.train_on)
    return SearchTask(folder, open_model(options.model), device, settings, shares, tuple(options.fine))


def run(folder: Folder, options: Namespace) -> int:
    """Returns how many searches are left."""
    deadline, plan = time.time() + 60 * options.minutes, folder.plan()
    given = _task(folder, options)
    seeds = [str(seed) for seed in range(plan.seeds)]
    rules = (options.workers, deadline)
    left = run_jobs(_prepare, given, seeds, lambda s: (folder.cache(int(s)) / READY).exists(), *rules, "Supernets")
    names = [job.name for job in plan.jobs(options.methods)]
    if left == 0:
        left = run_jobs(_search, given, names, lambda name: folder.found(name).exists(), *rules, "Searches")
    return sum(not folder.found(name).exists() for name in names)


def _prepare(given: SearchTask, seeds: Iterator[str]) -> None:
    for seed in seeds:
        searcher_of(given, int(seed))
        write_text(given.folder.cache(int(seed)) / READY, json.dumps(asdict(given.settings)))


def _search(given: SearchTask, names: Iterator[str]) -> None:
    plan = given.folder.plan()
    searcher, seed = None, None
    for job in map(Job.parse, names):
        if searcher is None or job.seed != seed:
            searcher = None
            gc.collect()
            searcher, seed = searcher_of(given, job.seed), job.seed
        start = time.monotonic()
        out = {**asdict(job), "limits": plan.budget(job).as_dict(), "rungs": []}
        try:
            ladder = METHODS[job.method](searcher, job.name, plan.budget(job), given.shares, job.name, given.fine)
        except HwfitError as error:
            ladder, out["infeasible"] = {}, "; ".join(error.problems)
        out["rungs"] = [
            {
                "share": share,
                "subnet": json.loads(found.subnet.to_json()),
                "predicted": searcher.cost(found.subnet),
                "loss": searcher.loss_of(found.picked),
            }
            for share, found in ladder.items()
        ]
        out |= {"seconds": time.monotonic() - start, "settings": asdict(given.settings)}
        write_text(given.folder.found(job.name), json.dumps(out))


def searcher_of(given: SearchTask, seed: int) -> Searcher:
    """The supernet of a seed, trained if it is not yet."""
    plan, cache = given.folder.plan(), given.folder.cache(seed)
    ids, rows = given.folder.tokens()["train"][seed], min(TRAIN, plan.train)
    ids = torch.cat([ids[:rows], ids[plan.train :]])
    study = study_of(
        given.model,
        ids,
        StudySettings(seq=plan.seq, train=rows, validation=plan.validation, seed=seed),
        cache,
        progress=False,
        device=given.device,
    )
    settings = SearchSettings(**{**asdict(given.settings), "seed": seed})
    latency = load_latency(plan.device, given.folder.tables)
    searcher = Searcher(study, latency, plan.workload, settings, cache, progress=False)
    searcher.train_supernet(f"{plan.model} {seed} {settings}")
    return searcher
