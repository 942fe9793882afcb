"""python -m benchmarks.joint_vs_sequential STAGE --out DIR: prepare, search, measure, distil, report, in this order.

`search` and `distil` run on this processor or on another machine's GPU (`--train-on cuda --workers 8 --model FOLDER
--minutes 8`): copy DIR/input there, and what they write (DIR/found, DIR/quality) back.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from importlib import import_module
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from benchmarks.joint_vs_sequential.plan import Folder
from hwfit.errors import HwfitError

STAGES = {"prepare": False, "search": True, "measure": False, "distil": True, "report": False}
"""Whether a stage runs jobs in several processes, on either kind of machine."""


def main(argv: list[str] | None = None) -> None:
    name = next((a for a in argv or sys.argv[1:] if not a.startswith("-")), "")
    parser = ArgumentParser(prog="benchmarks.joint_vs_sequential", description=(__doc__ or "").splitlines()[0])
    stages = parser.add_subparsers(dest="stage", required=True)
    for stage, pooled in STAGES.items():
        mine = stages.add_parser(stage)
        if stage != name:
            continue  # a stage's modules are not everywhere: no lm-eval where a GPU is, no GPU where lm-eval is
        mine.add_argument("--out", type=Path, required=True, help="the run's folder")
        _module(stage).arguments(mine)
        if pooled:
            mine.add_argument("--model", default="smollm2-135m", help="known name or fetched folder")
            mine.add_argument("--train-on", help="cpu or cuda [default: cuda where there is a GPU]")
            mine.add_argument("--workers", type=int, default=1)
            mine.add_argument("--minutes", type=float, default=1e6, help="start nothing after so many")
    options = parser.parse_args(argv)
    left = _module(options.stage).run(Folder(options.out), options)
    if STAGES[options.stage]:
        print(f"{left} left" if left else "all done")


def _module(stage: str):
    return import_module(f"benchmarks.joint_vs_sequential.{stage}")


if __name__ == "__main__":
    try:
        main()
    except HwfitError as error:
        print(*(f"error: {problem}" for problem in error.problems), sep="\n", file=sys.stderr)
        sys.exit(2)
