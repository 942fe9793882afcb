"""Harness: damaged files of one target through its reader, each in a fresh folder, with memory and time bounded."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from benchmarks.fuzz.mutate import Case, cases
from benchmarks.fuzz.targets import OUT, TARGETS
from hwfit.errors import HwfitError

SECONDS = {signal.ITIMER_PROF: (signal.SIGPROF, 10.0), signal.ITIMER_REAL: (signal.SIGALRM, 120.0)}
"""A case that takes more of the processor, or of the clock (it may wait, but the machine may be busy), is a crash."""
MEMORY = 3 * 2**30
"""Bytes of address space that reading one small file may add."""
BATCH = 100
SLOW = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)


class Hang(BaseException):
    """Not an `Exception`, so that no reader takes it for a damaged file."""


@dataclass
class Outcome:
    """Counts of one target; `crashes` by their kind, `first` is the example that showed a kind first."""

    refused: int = 0
    accepted: int = 0
    crashes: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    @property
    def crashed(self) -> int:
        return sum(self.crashes.values())

    @property
    def cases(self) -> int:
        return self.refused + self.accepted + self.crashed


def fuzz(name: str, keep: Path, seconds: float, most: int = 10**9, start: int = 0) -> Outcome:
    """Cases of target `name` for `seconds` or `most` cases; the same from the same `start`, but for where time ends.

    The first example of every kind of crash is kept in a folder of its own under `keep`, with its traceback.
    """
    end, outcome, target = time.monotonic() + seconds, Outcome(), TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="hwfit-fuzz-") as root_name:
        root = Path(root_name).resolve()
        valid = root / "valid"
        valid.mkdir()
        target.write(valid)
        files = {
            str(path.relative_to(valid)): (path.read_bytes(), form)
            for pattern, form in target.forms.items()
            for path in valid.glob(pattern)
        }
        with bounded(root):
            target.read(_fresh(valid, root))  # the undamaged file is read, or nothing below means anything

            def one(case: Case | None) -> None:
                if case is not None and time.monotonic() < end and outcome.cases < most:
                    _try(name, case, _fresh(valid, root), root, keep, outcome)

            while time.monotonic() < end and outcome.cases < most:
                test = given(cases(files))(one)
                options = settings(
                    max_examples=min(BATCH, most), database=None, deadline=None, phases=[Phase.generate],
                    suppress_health_check=SLOW,
                )  # fmt: skip
                seed(start)(options(test))()
                start += 1
    return outcome


def _fresh(valid: Path, root: Path) -> Path:
    folder = root / "case"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(valid, folder)
    return folder


def _try(name: str, case: Case, folder: Path, root: Path, keep: Path, outcome: Outcome) -> None:
    path = folder / case.file
    path.unlink()
    if case.put == "folder":
        path.mkdir()
    elif isinstance(case.put, bytes):
        path.write_bytes(case.put)
    before = _tree(root)
    try:
        with _limited():
            TARGETS[name].read(folder)
        refused = False
    except HwfitError:
        refused = True
    except (Exception, Hang) as error:
        return _crashed(name, case, _kind(error), "".join(traceback.format_exception(error)), keep, outcome)
    allowed = str(folder.relative_to(root) / OUT)
    wrote = sorted(p for p, about in _tree(root).items() ^ before.items() if refused or not p.startswith(allowed))
    if wrote := wrote or sorted(p for p in _tree(root) if p.endswith(".tmp")):
        return _crashed(name, case, f"wrote {', '.join(wrote)}", "", keep, outcome)
    outcome.refused += refused
    outcome.accepted += not refused
    return None


def _kind(error: BaseException) -> str:
    """The error's type and the line of hwfit it came through last."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/hwfit/" in f.filename]
    where = re.sub(r".*/hwfit/", "hwfit/", f"{frames[-1].filename}:{frames[-1].lineno}") if frames else "elsewhere"
    return f"{type(error).__name__} at {where}"


def _crashed(name: str, case: Case, kind: str, trace: str, keep: Path, outcome: Outcome) -> None:
    outcome.crashes[kind] = outcome.crashes.get(kind, 0) + 1
    if kind in outcome.first:
        return
    folder = keep / re.sub(r"\W+", "-", f"{name} {kind}")[:100]
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(case.put, bytes):
        (folder / Path(case.file).name).write_bytes(case.put)
    (folder / "crash.txt").write_text(f"{case.file}: {case.how}\n{kind}\n{trace}", errors="backslashreplace")
    outcome.first[kind] = str(folder / "crash.txt")


def _tree(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file under `root`: the case, the working folder, the temporary and the cache folder."""
    return {
        str(path.relative_to(root)): (about.st_size, about.st_mtime_ns)
        for path in root.rglob("*")
        if not path.is_dir()
        for about in [path.lstat()]
    }


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def ring(number: int, frame: object) -> None:
        raise Hang(f"too long: {signal.Signals(number).name}")

    before = {number: signal.signal(number, ring) for number, _ in SECONDS.values()}
    for timer, (_, seconds) in SECONDS.items():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer in SECONDS:
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def bounded(root: Path) -> Iterator[None]:
    """Work in `root`: current, temporary and cache folders lie in it, and memory grows by `MEMORY` at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    here, cache, temporary = Path.cwd(), os.environ.get("XDG_CACHE_HOME"), tempfile.tempdir
    for name in ("cwd", "tmp", "cache"):
        (root / name).mkdir()
    os.chdir(root / "cwd")
    tempfile.tempdir, os.environ["XDG_CACHE_HOME"] = str(root / "tmp"), str(root / "cache")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        os.chdir(here)
        tempfile.tempdir = temporary
        os.environ.pop("XDG_CACHE_HOME")
        if cache is not None:
            os.environ["XDG_CACHE_HOME"] = cache
