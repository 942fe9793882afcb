"""A replayed search that kills its own process at the third evaluation of argument 2; the log is argument 1."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from replay_bench import bench
from search_llama import tiny_space

from hwfit.search.strategies import STRATEGIES
from hwfit.search.strategies.drive import run_strategy
from hwfit.search.strategies.picks import to_json, whole
from hwfit.search.strategies.replay import Replay


class Killed(Replay):
    def loss(self, picked):
        count.append(picked)
        if len(count) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(picked)


count = []
base = bench(tiny_space("w32", "w8a8", "w4a8"))
of = Killed(**{name: getattr(base, name) for name in Replay.__dataclass_fields__}) if sys.argv[2] == "die" else base
limits = {"decode": 1.05 * base.costs(whole(base.space, 2))["decode"]}
outcome = run_strategy(STRATEGIES["random"](of, limits, 9), of, 9, Path(sys.argv[1]), progress=False)
print(to_json(outcome.picked), outcome.curve)
