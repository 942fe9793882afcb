"""The joint search: a supernet with what it costs and loses, and subnets picked again as their measurements come in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from hwfit.errors import HwfitError
from hwfit.latency_models.choices import Choices, one_hot
from hwfit.latency_models.whole import WholeModel
from hwfit.progress import track
from hwfit.search import parallel
from hwfit.search.budget import EXACT, Budget, needed
from hwfit.search.costs import ExpectedCosts, predicted_cost
from hwfit.search.descent import descend, warm_start
from hwfit.search.discretise import WIDTHS, Picked, Problem, repair
from hwfit.search.front import Interval, Point, dominated, paired
from hwfit.search.knapsack import best_by_damage
from hwfit.search.optimise import DAMAGES, LOSSES, SearchSettings, StepLog, batch, train_shared
from hwfit.search.relax import Architecture
from hwfit.search.sensitivity import Damage, measure_damage
from hwfit.search.study import Study
from hwfit.search.supernet import Supernet
from hwfit.search.teacher import distillation_loss
from hwfit.subnet import Subnet
from hwfit.workload import Workload

SHARED_SHARE = 0.3
"""Share of the original's decode latency around which the shared weights are trained."""
NOISE = 0.03
"""Spread of a whole model's latency between timings some minutes apart (`benchmarks.whole_model`, log scale)."""


@dataclass(frozen=True)
class Freedom:
    """What a search may change: these widths, and precisions or not."""

    widths: tuple[str, ...] = WIDTHS
    precisions: bool = True


FREE = Freedom()
WIDTHS_ONLY = Freedom(precisions=False)


@dataclass(frozen=True)
class Found:
    """One searched subnet: the budget it is for, and how it was found; `guided` if the damage model had a say."""

    name: str
    budget: Budget
    picked: Picked
    subnet: Subnet
    log: tuple[StepLog, ...]
    freedom: Freedom = FREE
    guided: bool = True


class Searcher:
    """A supernet with its prices, damages and gradients: what `strategies` search on."""

    def __init__(
        self,
        study: Study,
        latency: WholeModel,
        workload: Workload,
        settings: SearchSettings,
        folder: Path,
        progress: bool = True,
    ):
        self.study, self.latency, self.workload = study, latency, workload
        self.settings, self.folder, self.progress = settings, folder, progress
        self.order = study.ordered.block_order
        space = study.space
        self.costs = ExpectedCosts(space, self.order, latency, workload)
        self.supernet = Supernet(
            study.ordered.weights,
            study.config,
            space,
            self.order,
            study.ordered.energy,
            settings.rank,
            study.dtype,
            progress,
            settings.recompute,
        )
        self._losses: dict[Picked, float] = {}
        self._known: dict[tuple[str, ...], dict[Picked, Mapping[str, float]]] = defaultdict(dict)
        self.damage: Damage = measure_damage(self.supernet, study.validation.take(slice(0, settings.judged)), progress)

    def cost(self, subnet: Subnet) -> dict[str, float]:
        """All of a subnet's predicted costs."""
        return predicted_cost(self.latency, self.workload, subnet)

    def problem(self, limits: Mapping[str, float], freedom: Freedom = FREE) -> Problem:
        """To be best at under `limits`."""
        cost = partial(predicted_cost, self.latency, self.workload, metrics=needed(limits))
        rules = (limits, freedom.widths, freedom.precisions, self._known[tuple(sorted(limits))])
        return Problem(self.damage.table, self.study.space, self.order, cost, *rules)

    def train_supernet(self, key: str) -> None:
        """Shared weight steps, on architectures sampled around one in the middle of what will be asked for."""
        if not self.settings.weight_steps:
            return
        space = self.study.space
        start = Architecture(space)
        whole = self.cost(Subnet.whole(space.shape, space.precisions[0], space.embed))
        limits = {"decode": SHARED_SHARE * whole["decode"]}
        warm_start(start, self.costs, self.damage.surrogate, limits, self.settings.stiffness)
        with track(self.settings.weight_steps, "Supernet weights", self.progress) as advance:
            train_shared(
                self.supernet,
                start,
                self.study.train,
                self.settings,
                self.folder / "supernet.safetensors",
                key,
                advance,
            )

    def descend(
        self, name: str, architecture: Architecture, limits: Mapping[str, float], key: str
    ) -> tuple[list[Picked], list[StepLog]]:
        """See `descent.descend`; a killed one resumes under the same name and key."""
        part, count, text = parallel.share(self.settings.sequences), self.settings.sequences, self.study.validation

        def loss_at(choices: Choices, step: int) -> Tensor:
            rows = batch(text, count, step, self.settings.seed + 1).take(part)
            return distillation_loss(self.supernet(rows.ids, choices), rows)

        path = self.folder / f"search-{name}.safetensors"
        rules = (self.costs, self.damage.surrogate, loss_at, limits, self.settings, path, f"{key} {name}")
        with track(self.settings.steps, f"Searching {name}", self.progress) as advance:
            return descend(architecture, *rules, advance, count * text.ids.shape[1])

    def loss_of(self, picked: Picked) -> float:
        """What picks are compared by, in nats a token: `settings.rank_by`; remembered."""
        if picked not in self._losses:
            ranked = {DAMAGES: self.damage.of, LOSSES: lambda p: self.loss(p.subnet(self.study.space, self.order))}
            self._losses[picked] = ranked[self.settings.rank_by](picked)
        return self._losses[picked]

    def loss(self, subnet: Subnet) -> float:
        """Distillation loss of a subnet inside the supernet, on validation text."""
        return self._losses_on(subnet, [slice(0, self.settings.judged)])[0]

    def losses(self, subnet: Subnet) -> list[float]:
        """`loss` on each of the validation sequences."""
        count = min(self.settings.judged, len(self.study.validation))
        return self._losses_on(subnet, [slice(i, i + 1) for i in range(count)])

    @torch.no_grad()
    def _losses_on(self, subnet: Subnet, parts: Sequence[slice]) -> list[float]:
        hot = one_hot(self.study.space, subnet, self.order).map(lambda t: t.float())
        rows = [self.study.validation.take(part) for part in parts]
        return [float(distillation_loss(self.supernet(row.ids, hot), row)) for row in rows]


def repaired(picked: Picked, problem: Problem, allowed: Sequence[int] | None = None) -> Picked | None:
    """`repair`, or the knapsack's best where single steps lead nowhere; None if nothing keeps the limits."""
    try:
        return repair(picked, problem)
    except HwfitError:
        return best_by_damage(problem, allowed)


def beaten(searcher: Searcher, found: Mapping[str, Found]) -> dict[str, str]:
    """`name -> another` for those that another beats: it takes no more of anything that is limited and loses no more,
    and one of these by more than noise (added damages have none that all do not share); or it is the same subnet, for
    a tighter budget."""
    metrics = sorted({metric for f in found.values() for metric, _ in f.budget.limits})
    if searcher.settings.rank_by == LOSSES:
        losses = paired({name: searcher.losses(f.subnet) for name, f in found.items()})
    else:
        losses = {name: Interval.around(searcher.damage.of(f.picked)) for name, f in found.items()}
    points: dict[str, Point] = {}
    out: dict[str, str] = {}
    for name, f in found.items():
        costs = searcher.cost(f.subnet)
        point = {m: Interval.around(costs[m], 0.0 if m in EXACT else NOISE) for m in metrics}
        if same := next((other for other in points if found[other].subnet == f.subnet), None):
            out[name] = same
        else:
            points[name] = point | {"loss": losses[name]}
    return out | dominated(points)
