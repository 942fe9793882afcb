"""Probe: subnets distilled for a moment, from which every search of the run learns what distillation mends."""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from benchmarks.joint_vs_sequential import search
from benchmarks.joint_vs_sequential.plan import Folder
from benchmarks.joint_vs_sequential.pool import run_jobs
from hwfit.files import write_text
from hwfit.search.probing import ProbeSettings, draw, probe

SEED = 0
"""The seed whose texts the probes read."""


@dataclass(frozen=True)
class ProbeTask:
    """What every worker that probes is given."""

    searching: search.SearchTask
    settings: ProbeSettings


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--probes", type=int, default=40)
    parser.add_argument("--probe-steps", type=int, default=40)
    parser.add_argument("--probe-sequences", type=int, default=8)
    search.supernet_arguments(parser)


def run(folder: Folder, options: Namespace) -> int:
    """Returns how many probes are left; with none left, prints what was learnt."""
    deadline = time.time() + 60 * options.minutes
    settings = ProbeSettings(options.probe_steps, options.probe_sequences)
    given = ProbeTask(search.search_task(folder, options), settings)
    names = list(map(str, range(options.probes)))
    rules = (options.workers, deadline)
    left = run_jobs(_probe, given, names, lambda name: folder.probe(name).exists(), *rules, "Probes")
    if not left and (learnt := folder.recovery()):
        print(learnt)
    return left


def _probe(given: ProbeTask, names: Iterator[str]) -> None:
    searcher = None
    for name in names:
        searcher = searcher or search.searcher_of(given.searching, SEED, train=False)
        start = time.monotonic()
        picked = draw(searcher, int(name))
        done = probe(searcher, picked, replace(given.settings, seed=int(name)))
        subnet = picked.subnet(searcher.study.space, searcher.order)
        body = {"seconds": time.monotonic() - start, "settings": asdict(given.settings)}
        write_text(given.searching.folder.probe(name), json.dumps(asdict(done) | body | {"subnet": subnet.to_json()}))
