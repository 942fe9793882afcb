"""Distil: the chosen subnets, each from the original with the same tokens, then judged on documents never seen."""

from __future__ import annotations

import gc
import json
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.joint_vs_sequential.measure import ORIGINAL, chosen_subnets, references
from benchmarks.joint_vs_sequential.plan import Folder
from benchmarks.joint_vs_sequential.pool import run_jobs
from hwfit.evaluate.batched import outcomes, row_losses
from hwfit.evaluate.requests import load_requests
from hwfit.files import write_text
from hwfit.models.llama import open_model
from hwfit.search.distil import DistilSettings, Student, distil
from hwfit.search.methods import METHODS
from hwfit.search.study import Study, StudySettings, study_of, training_device
from hwfit.subnet import Subnet

READY = "teacher.json"


@dataclass(frozen=True)
class DistilTask:
    """What every worker that distils is given; `subnets` by job name, which ends in the seed."""

    folder: Folder
    model: Path
    device: torch.device
    settings: DistilSettings
    subnets: dict[str, Subnet]

    @property
    def rows(self) -> int:
        """Training sequences used: no more than the steps can see."""
        return min(self.folder.plan().train, self.settings.steps * self.settings.sequences)


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=300, help="28 is a taste on a processor")
    parser.add_argument("--sequences", type=int, default=8, help="sequences a step; 2 on a processor")
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--unmeasured", type=float, metavar="SHARE", help="distil this rung without `measure`")


def run(folder: Folder, options: Namespace) -> int:
    """Returns how many subnets are left."""
    deadline = time.time() + 60 * options.minutes
    settings = DistilSettings(options.steps, options.sequences, options.lr, enough=0.0)
    subnets = chosen_subnets(folder, options.methods, options.unmeasured)
    given = DistilTask(folder, open_model(options.model), training_device(options.train_on), settings, subnets)
    seeds = sorted({name.rpartition(".s")[2] for name in subnets})
    rules = (options.workers, deadline)
    left = run_jobs(_prepare, given, seeds, lambda s: _answered(given, int(s)), *rules, "Original's answers")
    if left == 0:
        run_jobs(_distil, given, list(subnets), lambda name: folder.quality(name).exists(), *rules, "Distilling")
    return sum(not folder.quality(name).exists() for name in subnets)


def _answered(given: DistilTask, seed: int) -> bool:
    mark = given.folder.cache(seed) / READY
    return mark.exists() and json.loads(mark.read_text()) == given.rows


def _prepare(given: DistilTask, seeds: Iterator[str]) -> None:
    for seed in seeds:
        _study(given, int(seed))
        write_text(given.folder.cache(int(seed)) / READY, json.dumps(given.rows))


def _distil(given: DistilTask, names: Iterator[str]) -> None:
    tokens, requests = given.folder.tokens()["heldout"], load_requests(given.folder.requests)
    original = references(given.folder)[ORIGINAL]
    study, seed = None, None
    for name in names:
        wanted = int(name.rpartition(".s")[2])
        if study is None or wanted != seed:
            study = None
            gc.collect()
            study, seed = _study(given, wanted), wanted
        start = time.monotonic()
        subnet = given.subnets[name]
        student = Student(study.ordered, study.config, subnet, study.dtype)
        losses = []
        if subnet != original:  # which has nothing to learn
            settings = DistilSettings(**{**asdict(given.settings), "seed": seed})
            losses = distil(student, study.train, settings)
        trained = time.monotonic()
        torch.set_float32_matmul_precision("high")  # tf32 on a GPU; bf16 logits would blur the judgement
        student.freeze(torch.float32)
        out = {
            "subnet": json.loads(subnet.to_json()),
            "tokens": len(losses) * given.settings.sequences * tokens.shape[1],
            "losses": losses[:: max(1, len(losses) // 20)],
            "last": sum(losses[-10:]) / max(1, len(losses[-10:])),
            "rows": row_losses(student, tokens, given.device),
            "correct": outcomes(student, requests, given.device),
            "seconds": {"distil": trained - start, "judge": time.monotonic() - trained},
            "settings": asdict(given.settings),
            "device": str(given.device),
        }
        torch.set_float32_matmul_precision("highest")
        write_text(given.folder.quality(name), json.dumps(out))
        del student
        if given.device.type == "cuda":
            torch.cuda.empty_cache()


def _study(given: DistilTask, seed: int) -> Study:
    plan = given.folder.plan()
    ids: Tensor = given.folder.tokens()["train"][seed][: given.rows]
    settings = StudySettings(seq=plan.seq, train=given.rows, validation=0, seed=seed)
    return study_of(given.model, ids, settings, given.folder.cache(seed), progress=False, device=given.device)
