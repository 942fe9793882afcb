"""Training: what a user sets of a search's own training, as one value; checked before anything starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from hwfit.errors import nearest, raise_all
from hwfit.search.distil import METHODS, DistilSettings
from hwfit.search.optimise import DAMAGES, LOSSES, RANKINGS, SearchSettings
from hwfit.search.steps_log import tensorboard_problems
from hwfit.search.strategies import strategy_problems

S = TypeVar("S", SearchSettings, DistilSettings)


@dataclass(frozen=True)
class Training:
    """Steps, rates and memory; None keeps the stage's default.

    `sequences` a step; where fewer than usual are asked for, no more than these judge a subnet's loss either. Subnets
    that are distilled are ranked by damages, others by losses (`optimise.RANKINGS`), unless `rank_by` says otherwise.
    By default `steps` are taken for losses alone: gradients on the supernet lead to nothing that has less damage than
    the damage model's own picks.
    """

    steps: int | None = None
    distil_steps: int = 40
    sequences: int | None = None
    lr: float | None = None
    supernet_lr: float | None = None
    architecture_lr: float | None = None
    distil: str = "full"
    hidden: float = 0.0
    recompute: bool = False
    checkpoint_minutes: float = 5.0
    tensorboard: bool = False
    strategy: str = "joint"
    evaluations: int | None = None
    aim: float = SearchSettings().aim
    rank_by: str | None = None

    def check(self) -> None:
        """Raises `HwfitError` listing every value that is not allowed."""
        problems = tensorboard_problems(self.tensorboard)
        if self.distil not in METHODS:
            problems.append(f"--distil '{self.distil}' is unknown; {nearest(self.distil, METHODS)}")
        for flag, rate in {
            "lr": self.lr,
            "supernet-lr": self.supernet_lr,
            "architecture-lr": self.architecture_lr,
        }.items():
            if rate is not None and not 0 < rate < 10:
                problems.append(f"--{flag} {rate} must be above 0 and below 10")
        if (self.supernet_lr or self.architecture_lr) and not self.search_settings().steps:
            problems.append("--supernet-lr and --architecture-lr need steps on the supernet: add --steps 16")
        if self.sequences is not None and self.sequences < 1:
            problems.append(f"--sequences {self.sequences} must be at least 1")
        if self.hidden < 0:
            problems.append(f"--hidden {self.hidden} must be 0 or more")
        if self.checkpoint_minutes < 0:
            problems.append(f"--checkpoint-minutes {self.checkpoint_minutes} must be 0 or more; 0 is by steps alone")
        problems += strategy_problems(self.strategy)
        if self.rank_by is not None and self.rank_by not in RANKINGS:
            problems.append(f"--rank-by '{self.rank_by}' is unknown; {nearest(self.rank_by, RANKINGS)}")
        if self.evaluations is not None and self.evaluations < 1:
            problems.append(f"--evaluations {self.evaluations} must be at least 1")
        if not 0.5 <= self.aim <= 1:
            problems.append(
                f"--aim {self.aim} must be between 0.5 and 1: the share of a budget that is used as measured"
            )
        raise_all(problems)

    def search_settings(self) -> SearchSettings:
        default = SearchSettings()
        rank_by = self.rank_by or (DAMAGES if self.distil_steps else LOSSES)
        steps = (0 if rank_by == DAMAGES else default.steps) if self.steps is None else self.steps
        return replace(
            self._shared(default),
            steps=steps,
            weight_steps=default.weight_steps if steps else 0,
            judged=min(default.judged, self.sequences or default.judged),
            lr_weights=self.supernet_lr or default.lr_weights,
            lr_architecture=self.architecture_lr or default.lr_architecture,
            strategy=self.strategy,
            evaluations=self.evaluations,
            rank_by=rank_by,
            aim=self.aim,
        )

    def distil_settings(self) -> DistilSettings:
        default = DistilSettings()
        return replace(
            self._shared(default),
            steps=self.distil_steps,
            lr=self.lr or default.lr,
            method="lora" if self.distil == "lora" else "full",
            hidden=self.hidden,
        )

    def _shared(self, default: S) -> S:
        """With what both stages are told alike."""
        return replace(
            default,
            sequences=self.sequences or default.sequences,
            recompute=self.recompute,
            checkpoint_minutes=self.checkpoint_minutes,
            tensorboard=self.tensorboard,
        )
