"""Processes that a test may kill, or start by the dozen: forked from a server that has done the slow imports once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["hwfit.search.run", "hwfit.profiler.run"])


def start(work: Callable[..., Any], *arguments: Any) -> ForkServerProcess:
    """A process of its own that calls `work`, which must be a function of a module."""
    process = CONTEXT.Process(target=work, args=arguments)
    process.start()
    return process


def finish(work: Callable[..., Any], *arguments: Any, seconds: float = 300) -> int:
    """The exit code of a process that calls `work`: -9 if it was killed by SIGKILL."""
    process = start(work, *arguments)
    process.join(seconds)
    assert process.exitcode is not None, f"not done after {seconds} s"
    return process.exitcode
