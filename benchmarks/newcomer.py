"""A newcomer's path: clones HEAD, installs it and types every command of README and how-tos, in empty folders.

Prints each command's seconds and exit code, the total, and disk. Commands that need what this machine may lack, and
those that take long, are left out with that reason; `--all` types the long ones too, and nothing shortened. Exit code 1
if a command fails. Downloads of hwfit go to a cache of its own unless `--cache` names one; pip keeps its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.common import parser, publish
from benchmarks.pages import HOWTOS, ROOT, Step, read_steps

LACKING = ("needs a GPU", "needs two processes")
console = Console()


@dataclass(frozen=True)
class Typed:
    """A command of a page and how it ended; `code` is None where it was left out."""

    page: str
    step: Step
    seconds: float
    code: int | None

    @property
    def failed(self) -> bool:
        return self.code is not None and self.code not in self.step.exits


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--all", action="store_true", help="type what takes long, and nothing shortened")
    arguments.add_argument("--folder", type=Path, help="an empty folder to work in [default: a temporary one]")
    arguments.add_argument("--cache", type=Path, help="hwfit's cache [default: an empty one]")
    arguments.add_argument("--page", action="append", help="only pages of this name (README, howto-deploy); repeatable")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="newcomer-") as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        done = walk(folder, options.cache or folder / "cache", options.all, options.page)
        sizes = {
            "venv": size(folder / "hwfit/.venv"),
            "cache": size(folder / "cache"),
            "work": size(folder) - size(folder / "hwfit/.venv") - size(folder / "cache"),
        }
    show(done)
    figures = {f"disk.{name}_mb": bytes_ / 1e6 for name, bytes_ in sizes.items()}
    figures |= {"disk.total_mb": sum(sizes.values()) / 1e6, "seconds": sum(one.seconds for one in done)}
    figures |= {"typed": sum(one.code is not None for one in done), "left_out": sum(one.code is None for one in done)}
    publish("newcomer", {**figures, "failed": sum(one.failed for one in done)}, options.json)
    sys.exit(any(one.failed for one in done))


def walk(folder: Path, cache: Path, everything: bool, pages: list[str] | None = None) -> list[Typed]:
    """Every step of every page: the README's in the clone, each how-to's in an empty folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    clone, cache = folder / "hwfit", cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PATH": f"{clone}/.venv/bin:{os.environ['PATH']}"}
    environment["PIP_CACHE_DIR"] = os.environ.get("PIP_CACHE_DIR", str(Path.home() / ".cache/pip"))
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        environment.pop(name, None)
    done = [typed("README", Step("bash", f"git clone --quiet {ROOT} hwfit"), folder, environment)]
    done.append(typed("README", Step("bash", "make install"), clone, environment))
    for page in [ROOT / "README.md", *HOWTOS]:
        if pages and page.stem not in pages:
            continue
        where = clone if page.stem == "README" else folder / page.stem
        where.mkdir(exist_ok=True)
        program = ""  # Python blocks of a page build on each other
        for step in read_steps(page, "reader" if everything else "newcomer"):
            long = bool(step.unless and step.unless.startswith("takes"))
            if step.unless in LACKING or (long and not everything):
                done.append(Typed(page.stem, step, 0.0, None))
                continue
            program += step.text if step.kind == "python" else ""
            done.append(typed(page.stem, step, where, environment, program))
    return done


def typed(page: str, step: Step, where: Path, environment: Mapping[str, str], program: str = "") -> Typed:
    """Type one step, `program` being the page's Python up to it; what it says is shown if it fails."""
    command = ["bash", "-c", step.text] if step.kind == "bash" else ["python", "-c", program]
    start = time.monotonic()
    ran = subprocess.run(command, cwd=where, env=dict(environment), capture_output=True, text=True)
    one = Typed(page, step, time.monotonic() - start, ran.returncode)
    ended = f"{one.seconds:.1f} s, exit code {one.code}"
    console.print(f"{page}: {label(step)}: {ended}", markup=False, highlight=False, soft_wrap=True)
    if one.failed:
        console.print((ran.stdout + ran.stderr)[-3000:], markup=False, highlight=False)
    return one


def label(step: Step) -> str:
    """The first line of a step."""
    first, *rest = step.text.strip().splitlines()
    return f"python: {first} …" if step.kind == "python" else first + (" …" if rest else "")


def size(folder: Path) -> int:
    """Bytes on disk under a folder, files with several names counted once."""
    stats = {
        (s.st_dev, s.st_ino): s.st_blocks * 512 for p in folder.rglob("*") if not p.is_symlink() for s in [p.stat()]
    }
    return sum(stats.values())


def show(done: list[Typed]) -> None:
    table = Table("page", "command", "seconds", "exit code")
    for one in done:
        left_out = f"left out: {one.step.unless}"
        code = left_out if one.code is None else f"[red]{one.code}[/]" if one.failed else str(one.code)
        table.add_row(one.page, label(one.step).replace("[", r"\["), f"{one.seconds:.1f}", code)
    console.print(table)


if __name__ == "__main__":
    main()
