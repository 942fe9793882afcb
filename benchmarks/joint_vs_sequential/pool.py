"""Pool: several processes that take jobs from one list, each writing its own result files; safe to kill."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.multiprocessing

from hwfit.errors import HwfitError
from hwfit.progress import track

POLL = 0.3


@dataclass
class Turns:
    """Names not yet taken by another process, until `deadline` (seconds since the epoch) or while `parent` lives."""

    names: list[str]
    taken: Any  # a shared counter
    deadline: float
    parent: int

    def __iter__(self) -> Iterator[str]:
        while time.time() < self.deadline and os.getppid() == self.parent:
            with self.taken.get_lock():
                i = self.taken.value
                self.taken.value = i + 1
            if i >= len(self.names):
                return
            yield self.names[i]


Work = Callable[[Any, Iterator[str]], None]
"""(options, names): does every job it is given. Must be a module's own function, for it travels to new processes."""


def run_jobs(
    work: Work,
    options: Any,
    names: Sequence[str],
    done: Callable[[str], bool],
    workers: int,
    deadline: float,
    label: str,
) -> int:
    """Do the `names` that are not `done` in up to `workers` processes; returns how many are left at `deadline`.

    Raises `HwfitError` if a process failed, after the others have ended.
    """
    todo = [name for name in names if not done(name)]
    if not todo:
        return 0
    context = torch.multiprocessing.get_context("spawn")
    count = min(workers, len(todo))
    turns = Turns(todo, context.Value("i", 0), deadline, os.getpid())
    threads = max(1, (os.cpu_count() or 1) // count)
    pool = [context.Process(target=_serve, args=(work, options, turns, threads), daemon=True) for _ in range(count)]
    for process in pool:
        process.start()
    with track(len(todo), label) as advance:
        shown = 0
        while any(process.is_alive() for process in pool):
            time.sleep(POLL)
            ready = sum(map(done, todo))
            advance(ready - shown)
            shown = ready
    failed = sum(process.exitcode != 0 for process in pool)
    if failed:
        raise HwfitError(f"{failed} of {count} workers failed, for the reasons above; the same command resumes")
    return sum(not done(name) for name in todo)


def _serve(work: Work, options: Any, turns: Turns, threads: int) -> None:
    torch.set_num_threads(threads)
    try:
        work(options, iter(turns))
    except HwfitError as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        sys.exit(2)
