"""What `test_parallel.py` and `test_kill.py` start: search and distil a tiny model with a made-up latency.

torchrun --nproc-per-node 2 tests/search/search_job.py OUT [--distil-steps N] [--die-at POINT]
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from made_up import Bits
from search_llama import tiny_space, write_model

from hwfit.latency_models.whole import WholeModel
from hwfit.search import descent, parallel
from hwfit.search import study as study_module
from hwfit.search.budget import Budget
from hwfit.search.costs import predicted_cost
from hwfit.search.distil import DistilSettings, Lora
from hwfit.search.optimise import SearchSettings
from hwfit.search.run import distil_all, search_front
from hwfit.search.study import StudySettings, study_of
from hwfit.subnet import Subnet
from hwfit.workload import Workload

SEARCH = SearchSettings(
    weight_steps=3, steps=4, sequences=2, rank=2, checkpoint_every=1, candidates=1, trials=1, judged=2
)


# activations may stay as they are: one on a rounding boundary would part two runs that differ in the order of sums
def run(out: Path, distil: DistilSettings, act_bits: int = 8, search: SearchSettings = SEARCH) -> None:
    descent.WARM_STEPS = 6
    model = out.parent / os.environ.get("RANK", "0") / "model"  # one that no other process is writing
    write_model(model)
    ids = torch.randint(0, 40, (10, 12), generator=torch.Generator().manual_seed(9))
    settings = StudySettings(seq=12, train=6, validation=4, calibration=4)
    study = study_of(model, ids, settings, out / "checkpoints", progress=False)
    study = replace(study, space=tiny_space("w32", f"w8a{act_bits}", f"w4a{act_bits}"), dtype=torch.float32)
    latency, workload = WholeModel(Bits()), Workload()
    whole = predicted_cost(latency, workload, Subnet.whole(study.space.shape, f"w8a{act_bits}", study.space.embed))

    def measure(subnets):
        costs = {name: predicted_cost(latency, workload, s) for name, s in subnets.items()}
        return {name: {p: 1.1 * c[p] for p in ("decode", "prefill")} for name, c in costs.items()}

    budgets = {"a": Budget((("decode", 0.8 * whole["decode"]),))}
    rest = {"folder": out, "progress": False}
    choices = search_front(study, latency, workload, budgets, measure, search, out, progress=False)
    distil_all(study, choices, distil, **rest)


def die_at(point: str) -> None:
    """SIGKILL this process at a point of a stage.

    `importance`: measured, not used yet. Else `NAME:2`: while the second file whose name starts so is being written,
    half of it on disk.
    """
    name, _, count = point.partition(":")
    left = int(count or 1)

    def here(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if name == "importance":
        study_module.order_model = here
        return
    replace_file = os.replace

    def counted(source: Path, target: Path) -> None:
        nonlocal left
        if Path(target).name.startswith(name):
            left -= 1
            if left == 0:
                half = Path(source).read_bytes()
                Path(source).write_bytes(half[: len(half) // 2])
                here()
        replace_file(source, target)

    os.replace = counted


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--distil-steps", type=int, default=4)
    parser.add_argument("--distil-lr", type=float, default=1e-3)
    parser.add_argument("--method", default="full")
    parser.add_argument("--hidden", type=float, default=0.0)
    parser.add_argument("--act-bits", type=int, default=8)
    parser.add_argument("--die-at")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.die_at:
        die_at(given.die_at)
    torch.manual_seed(parallel.rank())
    parallel.start(torch.device("cpu"))
    rules = {"method": given.method, "hidden": given.hidden, "lora": Lora(rank=4), "enough": 0.0}
    rules |= {"lr": given.distil_lr, "checkpoint_every": 1}
    run(given.out, DistilSettings(given.distil_steps, sequences=2, **rules), given.act_bits)
    parallel.stop()


if __name__ == "__main__":
    main()
