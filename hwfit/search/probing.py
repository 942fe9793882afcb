"""Probing: subnets that some search would choose, distilled for a moment, from which `recovery` learns."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch

from hwfit.search.baseline import fastest_uniform
from hwfit.search.discretise import Picked
from hwfit.search.distil import DistilSettings, Student, distil
from hwfit.search.joint import Searcher
from hwfit.search.knapsack import best_by_damage
from hwfit.search.recovery import Probe, contributions, random_tastes
from hwfit.search.study import Study
from hwfit.search.teacher import distillation_loss
from hwfit.workload import PHASES

SHARES = (0.4, 1.0)
"""Budgets of probes, as shares of the fastest model at one precision."""
ATTEMPTS = 20
STRIDE = 1_000_003
"""Seeds of tastes are so far apart that no two draws share one."""
ROWS = 8
"""Validation sequences judged at a time."""


@dataclass(frozen=True)
class ProbeSettings:
    """Each probe is distilled for so many steps of so many sequences."""

    steps: int = 40
    sequences: int = 8
    lr: float = 2e-4
    seed: int = 0


def draw(searcher: Searcher, index: int, seed: int = 0) -> Picked:
    """The best pick under a random budget on one phase, for a random weighting of the kinds of damage."""
    rng, phase = random.Random(f"{seed} {index}"), PHASES[index % len(PHASES)]
    space = searcher.study.space
    fastest = searcher.cost(fastest_uniform(space, searcher.latency, searcher.workload.phase(phase)))[phase]
    for attempt in range(ATTEMPTS):
        limits = {phase: rng.uniform(*SHARES) * fastest}
        taste = random_tastes(searcher.at_once, seed + STRIDE * index + STRIDE**2 * attempt)
        if picked := best_by_damage(replace(searcher.problem(limits), damage=taste.table)):
            return picked
    raise ValueError("no budget of the probes can be met")


def probe(searcher: Searcher, picked: Picked, settings: ProbeSettings) -> Probe:
    """Distil the pick for a moment and judge it on validation text."""
    study = searcher.study
    subnet = picked.subnet(study.space, searcher.order)
    student = Student(study.ordered, study.config, subnet, study.dtype)
    distil(
        student, study.train, DistilSettings(settings.steps, settings.sequences, settings.lr, 0.0, seed=settings.seed)
    )
    at_once = searcher.loss(subnet)
    return Probe(contributions(searcher.at_once, picked), at_once, validation_loss(student, study))


@torch.no_grad()
def validation_loss(student: Student, study: Study) -> float:
    """Distillation loss (nats a token) on all validation sequences."""
    losses = []
    for start in range(0, len(study.validation), ROWS):
        rows = study.validation.take(slice(start, start + ROWS))
        losses.append(float(distillation_loss(student(rows.ids), rows)) * len(rows))
    return sum(losses) / len(study.validation)
