"""A replayed search that keeps its losses in a file; as a script (argument 1) it kills itself at the third one."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from replay_bench import bench
from search_llama import tiny_space

from hwfit.search.strategies import STRATEGIES
from hwfit.search.strategies.drive import Outcome, run_strategy
from hwfit.search.strategies.picks import whole
from hwfit.search.strategies.replay import Replay


def searched(log: Path, of: Replay) -> Outcome:
    limits = {"decode": 1.05 * of.costs(whole(of.space, 2))["decode"]}
    return run_strategy(STRATEGIES["random"](of, limits, 9), of, 9, log, progress=False)


def replayed() -> Replay:
    return bench(tiny_space("w32", "w8a8", "w4a8"))


class Killed(Replay):
    def loss(self, picked):
        count.append(picked)
        if len(count) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(picked)


count = []
if __name__ == "__main__":
    base = replayed()
    searched(Path(sys.argv[1]), Killed(**{name: getattr(base, name) for name in Replay.__dataclass_fields__}))
