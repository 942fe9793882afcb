"""Workers of the whole suite, their threads and the order of its files; what tests of many folders share."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

GIGABYTES = 3  # what a worker takes with a real model, and the processes it starts
MOST = 8  # more workers start more interpreters, each with its imports and fixtures, than they save

# Read when triton is imported, which transformers does as well: its kernels then run in Python, on CPU tensors.
os.environ.setdefault("TRITON_INTERPRET", "1")


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    # Read when torch and numpy are imported, also by the processes that tests start: workers share the cores.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, str(max(1, cores() // int(workers))))
    for name in ("COLUMNS", "LINES"):  # a worker is given a terminal's; tests that mind the width set their own
        os.environ.pop(name, None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means: a worker a core, as far as there is memory."""
    import psutil

    return max(1, min(cores(), int(psutil.virtual_memory().available / (GIGABYTES * 1e9)), MOST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers get the files with slow tests first: the last file to run, alone, is then a short one."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True, scope="module")
def frozen_heap() -> None:
    """The collector need not walk all imports again and again: the profiler alone asks it to before every batch."""
    if not gc.get_freeze_count():  # the first module, or one after `gc.unfreeze`
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of the real SmolLM2-135M. On an empty cache one worker makes it and the others wait."""
    from filelock import FileLock

    from hwfit.models.fetch import fetch
    from hwfit.packs import cache_dir

    cache_dir().mkdir(parents=True, exist_ok=True)
    with FileLock(cache_dir() / "tests.lock"):
        return fetch("smollm2-135m", progress=False)
