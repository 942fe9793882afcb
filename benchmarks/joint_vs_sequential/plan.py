"""Plan: what is compared, and where each stage finds and leaves its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from hwfit.errors import HwfitError
from hwfit.files import replacing, write_text
from hwfit.search.budget import Budget
from hwfit.search.methods import METHODS
from hwfit.subnet import Subnet
from hwfit.workload import PhaseName, Workload

GOALS: dict[str, PhaseName] = {"decode": "decode", "prefill": "prefill", "prefill_in_memory": "prefill"}
"""What is to be fast; `prefill_in_memory` within the memory of the smallest uniform model too."""


@dataclass(frozen=True)
class Job:
    """One search: a method under a budget on one seed's text and draws. `name` is also its file's."""

    method: str
    goal: str  # one of `GOALS`
    share: int  # per cent of the fastest uniform model's latency
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method}.{self.cell}.s{self.seed}"

    @property
    def cell(self) -> str:
        return f"{self.goal}.b{self.share}"

    @property
    def phase(self) -> PhaseName:
        """Whose latency the budget is on."""
        return GOALS[self.goal]

    @classmethod
    def parse(cls, name: str) -> Job:
        method, goal, share, seed = name.split(".")
        return cls(method, goal, int(share[1:]), int(seed[1:]))


@dataclass(frozen=True)
class Plan:
    """`limits["decode"][70]`: the budget by metric; its latency is 70 % of the fastest uniform model's as measured, of
    4 bits or more.

    `bias` is by how many times too slow uniform models are predicted, by goal: what a search is to keep in predictions.
    `device` is the key of the measured processor; `train` and `validation` count sequences of `seq` tokens a seed.
    """

    model: str
    device: str
    workload: Workload
    limits: dict[str, dict[int, dict[str, float]]]
    bias: dict[str, float]
    uniform: dict[str, str]
    seeds: int
    seq: int
    train: int
    validation: int

    def jobs(self, methods: Sequence[str] = tuple(METHODS)) -> list[Job]:
        return [
            Job(method, goal, share, seed)
            for seed in range(self.seeds)
            for method in methods
            for goal, shares in self.limits.items()
            for share in shares
        ]

    def limit(self, job: Job) -> float:
        """Seconds that may be measured."""
        return self.limits[job.goal][job.share][job.phase]

    def budget(self, job: Job) -> Budget:
        """In predictions."""
        limits = self.limits[job.goal][job.share]
        return Budget(tuple((m, v * self.bias[job.goal] if m == job.phase else v) for m, v in limits.items()))


@dataclass(frozen=True)
class Folder:
    """The files of a run under `path`."""

    path: Path

    @property
    def tables(self) -> Path:
        return self.path / "input" / "tables"

    @property
    def requests(self) -> Path:
        return self.path / "input" / "requests.safetensors"

    @property
    def config(self) -> Path:
        return self.path / "input" / "config.json"

    def measured(self, cell: str) -> Path:
        return self.path / "measured" / f"{cell}.json"

    def found(self, name: str) -> Path:
        return self.path / "found" / f"{name}.json"

    def quality(self, name: str) -> Path:
        return self.path / "quality" / f"{name}.json"

    def cache(self, seed: int) -> Path:
        """What only saves time; need not travel."""
        return self.path / "cache" / f"s{seed}"

    def plan(self) -> Plan:
        raw = read_json(self.path / "input" / "plan.json", "prepare")
        limits = {goal: {int(s): v for s, v in by_share.items()} for goal, by_share in raw.pop("limits").items()}
        return Plan(**{**raw, "workload": Workload(**raw["workload"]), "limits": limits})

    def save_plan(self, plan: Plan) -> None:
        write_text(self.path / "input" / "plan.json", json.dumps(asdict(plan), indent=1))

    def tokens(self) -> dict[str, Tensor]:
        """`train` [seeds, rows, seq] and `heldout` [rows, seq], int64."""
        raw = safetensors.torch.load_file(self.path / "input" / "tokens.safetensors")
        return {name: t.long() for name, t in raw.items()}

    def save_tokens(self, tokens: dict[str, Tensor]) -> None:
        small = max(int(t.max()) for t in tokens.values()) < 1 << 16
        kind = torch.uint16 if small else torch.int32
        with replacing(self.path / "input" / "tokens.safetensors") as temporary:
            safetensors.torch.save_file({n: t.to(kind).contiguous() for n, t in tokens.items()}, temporary)


def read_json(path: Path, stage: str) -> Any:
    """Raises `HwfitError` naming the `stage` that writes the file."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise HwfitError(f"{path}: cannot be read ({error}); run `{stage}` first") from error


def subnet_of(raw: Any) -> Subnet:
    return Subnet.from_json(json.dumps(raw))


def digest(subnet: Subnet) -> str:
    return hashlib.sha256(subnet.to_json().encode()).hexdigest()[:12]
