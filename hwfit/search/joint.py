"""The joint search: widths, depth and per-linear precision together, one supernet, one architecture per budget."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import copysign, exp, log, sqrt
from pathlib import Path
from statistics import fmean, median

import torch

from hwfit.errors import HwfitError
from hwfit.latency_models.choices import one_hot
from hwfit.latency_models.whole import WholeModel
from hwfit.progress import track
from hwfit.search.budget import EXACT, Budget, needed
from hwfit.search.costs import ExpectedCosts, predicted_cost
from hwfit.search.discretise import WIDTHS, Picked, Problem, most_likely, repair, with_precision
from hwfit.search.front import Interval, Point, dominated, paired
from hwfit.search.knapsack import best_by_damage, neighbours
from hwfit.search.lagrangian import AugmentedLagrangian
from hwfit.search.optimise import SearchSettings, StepLog, optimise_architecture, priced, train_shared
from hwfit.search.recovery import Recovery
from hwfit.search.relax import PRECISIONS, Architecture
from hwfit.search.sensitivity import Damage, measure_damage
from hwfit.search.study import Study
from hwfit.search.supernet import Supernet
from hwfit.search.teacher import distillation_loss
from hwfit.subnet import LINEARS, Subnet
from hwfit.workload import Workload

SHARED_SHARE = 0.3
"""Share of the original's decode latency around which the shared weights are trained."""
WARM_STEPS = 300
WARM_RATE = 0.1
WARM_TEMPERATURE = 2e-4
NEIGHBOURS = 6
"""Neighbouring widths tried at each step of the walk."""
NOISE = 0.03
"""Spread of a whole model's latency between timings some minutes apart (`benchmarks.whole_model`, log scale)."""
AIM = 0.95
SLACK = 0.94
"""Share of its budget that a re-measured subnet is aimed at, and that it should use at least: what streams from memory
is slower by up to a tenth some minutes later on a shared machine, and the anchors tell of half of that. What the subnet
alone decides (`EXACT`) is used up."""
AIMS = (AIM, 0.975, 1.0, 1.05, 1.1, 1.2, 1.5)
"""Shares aimed at, one after the other, until the space has a subnet for one."""
CLOSE = 1.03
"""Share of a budget up to which it counts as met as measured."""


@dataclass(frozen=True)
class Freedom:
    """What a search may change: these widths, and precisions or not."""

    widths: tuple[str, ...] = WIDTHS
    precisions: bool = True


FREE = Freedom()
WIDTHS_ONLY = Freedom(precisions=False)


@dataclass(frozen=True)
class Found:
    """One searched subnet: the budget it is for, and how it was found."""

    name: str
    budget: Budget
    picked: Picked
    subnet: Subnet
    log: tuple[StepLog, ...]
    freedom: Freedom = FREE


class Searcher:
    """A supernet with its prices; `find` gives one subnet a budget."""

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
        self.at_once: Damage = measure_damage(self.supernet, study.validation.take(slice(0, settings.judged)), progress)
        self.damage = self.at_once
        self.recovery: Recovery | None = None

    def believe(self, recovery: Recovery) -> None:
        """From now on damages and losses are those that distillation is expected to leave."""
        if self.recovery:
            raise ValueError("a searcher believes one recovery")
        self.recovery, self.damage = recovery, recovery.scaled(self.at_once)
        self._losses.clear()

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
        space = self.study.space
        start = Architecture(space)
        whole = self.cost(Subnet.whole(space.shape, space.precisions[0], space.embed))
        self.warm_start(start, {"decode": SHARED_SHARE * whole["decode"]})
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

    def warm_start(self, architecture: Architecture, limits: Mapping[str, float]) -> None:
        """Minimise the additive damage model under the budget; costs no forward pass."""
        logits = [p for p in architecture.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(logits, lr=WARM_RATE)
        constraint = AugmentedLagrangian(dict(limits), self.settings.stiffness)
        for _ in range(WARM_STEPS):
            mean = architecture.mean()
            costs = priced(self.costs, mean, constraint.limits)
            loss = self.damage.surrogate(mean) + constraint.penalty(costs)
            optimizer.zero_grad()
            (loss - WARM_TEMPERATURE * architecture.total_entropy()).backward()
            optimizer.step()
            constraint.update({name: c.detach() for name, c in costs.items()}, rate=0.05)

    def find(self, name: str, budget: Budget, key: str) -> Found:
        """Search one budget: warm start on the damage model, refine on the real loss, repair, keep the best."""
        return self.search(name, budget, budget.as_dict(), Architecture(self.study.space), key)

    def find_sequential(self, name: str, budget: Budget, key: str) -> Found:
        """The usual pipeline: search the architecture at full precision, then quantise it to one precision.

        At full precision the budget is the one that leaves the original's share of its cost: its limits times full
        over quantised cost of the original architecture. The precision is the one with the lowest loss.
        """
        return self.quantised(self.find_unquantised(name, budget, key), budget)

    def find_unquantised(self, name: str, budget: Budget, key: str) -> Found:
        """The first half of `find_sequential`: an architecture at full precision, with the budget it was given."""
        space = self.study.space
        full = max(space.options(LINEARS[0]), key=lambda i: space.precisions[i].weight_bits)
        costs = [self.cost(Subnet.whole(space.shape, space.precisions[i], space.embed)) for i in (full, *self.uniform)]
        limits = {m: limit * costs[0][m] / min(c[m] for c in costs[1:]) for m, limit in budget.limits}
        architecture = Architecture(space)
        architecture.freeze(PRECISIONS, full)
        wide = Budget(tuple(limits.items()))
        return self.search(name, wide, limits, architecture, key, WIDTHS_ONLY)

    @property
    def uniform(self) -> list[int]:
        """The precisions that a whole model is quantised to: integers of 4 bits or more, as indices of the space's."""
        space = self.study.space
        there = [(i, space.precisions[i]) for i in space.options(LINEARS[0])]
        return [i for i, p in there if not p.is_float and p.weight_bits >= 4]

    def search(
        self,
        name: str,
        budget: Budget,
        limits: dict[str, float],
        architecture: Architecture,
        key: str,
        freedom: Freedom = FREE,
    ) -> Found:
        """Steps from `architecture`, what is frozen there left alone, then the best of what they and the damage model
        find within `limits`."""
        space = self.study.space
        self.warm_start(architecture, limits)
        first = architecture.mean().map(torch.Tensor.detach)
        with track(self.settings.steps, f"Searching {name}", self.progress) as advance:
            log = optimise_architecture(
                self.supernet,
                architecture,
                self.costs,
                limits,
                self.study.validation,
                self.settings,
                self.folder / f"search-{name}.safetensors",
                f"{key} {name}",
                advance,
            )
        starts = [most_likely(choices) for choices in (first, architecture.mean().map(torch.Tensor.detach))]
        picked = self._refined(self._best(starts, limits, freedom, self.settings.candidates), limits, freedom)
        subnet = picked.subnet(space, self.order)
        return Found(name, budget, picked, subnet, tuple(log), freedom)

    def lowered(self, found: Found, share: float) -> Found:
        """What a search that has found this much picks for `share` of the budget."""
        budget = found.budget.scaled(share)
        rules = budget.as_dict(), found.freedom
        picked = self._refined(self._best([found.picked], *rules, self.settings.candidates), *rules)
        return replace(found, budget=budget, picked=picked, subnet=picked.subnet(self.study.space, self.order))

    def _best(self, starts: Sequence[Picked], limits: Mapping[str, float], freedom: Freedom, own: int) -> Picked:
        """The lowest validation loss among the repaired `starts` and up to `own` picks of the damage model.

        Those are its best over all precisions and at each single one, which a joint search contains.
        """
        problem = self.problem(limits, freedom)
        # with one pick asked for, a single precision never has less damage than the best over all
        single = [[p] for p in problem.space.options(LINEARS[0])] if own > 1 else []
        allowed = [None, *single] if freedom.precisions else [[starts[0].precision[0][0]]]
        ideal = [best_by_damage(problem, options) for options in allowed]
        picks = [*starts, *sorted((p for p in ideal if p), key=self.damage.of)[:own]]
        repaired = [r for p in picks if (r := _repaired(p, problem))]
        if not repaired:
            raise HwfitError(f"no subnet of this space meets {Budget(tuple(limits.items()))}; allowed: a larger budget")
        return min(dict.fromkeys(repaired), key=self.loss_of)

    def _refined(self, picked: Picked, limits: Mapping[str, float], freedom: Freedom) -> Picked:
        """Walk to neighbouring widths, precisions solved anew for each, while the validation loss falls.

        Damages do not quite add up; this measures where they matter. At most `settings.trials` losses.
        """
        problem = self.problem(limits, freedom)
        allowed = None if freedom.precisions else [picked.precision[0][0]]
        left, tried = self.settings.trials, {picked}
        while left > 0:
            near = neighbours(picked, problem, allowed)
            new = [p for p in near if p not in tried][: min(left, NEIGHBOURS)]
            left, tried = left - len(new), tried | set(new)
            best = min((picked, *new), key=self.loss_of)
            if best == picked:
                break
            picked = best
        return picked

    def loss_of(self, picked: Picked) -> float:
        """`loss` of a pick, in terms of what distillation leaves of it if that is known; remembered."""
        if picked not in self._losses:
            loss = self.loss(picked.subnet(self.study.space, self.order))
            if self.recovery:
                loss = self.recovery.loss(self.damage.of(picked), loss, self.at_once.of(picked))
            self._losses[picked] = loss
        return self._losses[picked]

    def quantised(self, found: Found, budget: Budget) -> Found:
        """`found` at the `uniform` precision with the lowest loss; widths and depth give way until `budget` holds."""
        space = self.study.space
        options = []
        for index in self.uniform:
            problem = self.problem(budget.as_dict(), WIDTHS_ONLY)
            if picked := _repaired(with_precision(found.picked, index, space), problem, [index]):
                options.append(picked)
        if not options:
            raise HwfitError(f"no uniform precision meets {budget} by widths alone; allowed: a larger budget")
        picked = min(options, key=self.loss_of)
        return replace(found, budget=budget, picked=picked, subnet=picked.subnet(space, self.order))

    @torch.no_grad()
    def loss(self, subnet: Subnet) -> float:
        """Distillation loss of a subnet inside the supernet, on validation text."""
        hot = one_hot(self.study.space, subnet, self.order).map(lambda t: t.float())
        rows = self.study.validation.take(slice(0, self.settings.judged))
        return float(distillation_loss(self.supernet(rows.ids, hot), rows))

    @torch.no_grad()
    def losses(self, subnet: Subnet) -> list[float]:
        """`loss` on each of the validation sequences."""
        hot = one_hot(self.study.space, subnet, self.order).map(lambda t: t.float())
        rows = [self.study.validation.take(slice(i, i + 1)) for i in range(self.settings.judged)]
        return [float(distillation_loss(self.supernet(row.ids, hot), row)) for row in rows if len(row)]

    def aimed(self, found: Found, slower: Mapping[str, float]) -> Found:
        """Picked again for a device that takes `slower[metric]` times what is predicted, to use `AIM` of each limit, or
        the least more of it that the space has a subnet for."""
        for aim in AIMS:
            limits = {m: aim_of(m, aim) * limit / slower.get(m, 1.0) for m, limit in found.budget.limits}
            if picked := self._picked_again(found, limits):
                return replace(found, picked=picked, subnet=picked.subnet(self.study.space, self.order))
        return found

    def _picked_again(self, found: Found, limits: Mapping[str, float]) -> Picked | None:
        if not found.freedom.precisions:
            return _repaired(found.picked, self.problem(limits, found.freedom), [found.picked.precision[0][0]])
        try:
            return self._best([found.picked], limits, found.freedom, own=1)
        except HwfitError:
            return None


def aim_of(metric: str, aim: float = AIM) -> float:
    """The share of a limit to use: all of what the subnet alone decides."""
    return max(1.0, aim) if metric in EXACT else aim


def _repaired(picked: Picked, problem: Problem, allowed: Sequence[int] | None = None) -> Picked | None:
    """`repair`, or the knapsack's best where single steps lead nowhere; None if nothing keeps the limits."""
    try:
        return repair(picked, problem)
    except HwfitError:
        return best_by_damage(problem, allowed)


def remeasure(
    searcher: Searcher,
    found: Mapping[str, Found],
    measure: Callable[[Mapping[str, Subnet]], Mapping[str, Mapping[str, float]]],
    rounds: int,
) -> dict[str, Found]:
    """Deploy every found subnet, time it, and pick again for those over their budget or well below it.

    All `rounds` so far decide what the device takes over what is predicted (see `Disagreement`).
    """
    out = dict(found)
    seen = Disagreement()
    for _ in range(rounds):
        measured = measure({name: f.subnet for name, f in out.items()})
        predicted = {name: searcher.cost(f.subnet) for name, f in out.items()}
        for name in out:
            seen.add(name, predicted[name], measured[name])
        again = {}
        for name, f in out.items():
            slower = seen.slower(name)
            used = max(predicted[name][m] * slower.get(m, 1.0) / (aim_of(m) * of) for m, of in f.budget.limits)
            if not SLACK / AIM <= used <= 1 and (aimed := searcher.aimed(f, slower)).subnet != f.subnet:
                again[name] = aimed
        if not again:
            break
        out |= again
    return out


def beaten(searcher: Searcher, found: Mapping[str, Found]) -> dict[str, str]:
    """`name -> another` for those that another beats: it takes no more of anything that is limited and loses no more,
    and one of these by more than noise; or it is the same subnet, for a tighter budget."""
    metrics = sorted({metric for f in found.values() for metric, _ in f.budget.limits})
    losses = paired({name: searcher.losses(f.subnet) for name, f in found.items()})
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


class Disagreement:
    """Measured over predicted, as far as it is more than noise.

    What all subnets share (their median) is believed once it exceeds `NOISE` / sqrt(rounds), and so is what one
    differs by from the others: less would give a subnet's milliseconds away, or others', for one slow minute.
    """

    def __init__(self) -> None:
        self._logs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))  # metric -> name -> logs

    def add(self, name: str, predicted: Mapping[str, float], measured: Mapping[str, float]) -> None:
        for metric, value in measured.items():
            self._logs[metric][name].append(log(value / predicted[metric]))

    def slower(self, name: str) -> dict[str, float]:
        """`metric -> factor` by which `name` takes longer on the device than predicted."""
        out = {}
        for metric, logs in self._logs.items():
            rounds = len(logs[name])
            shared = median(value for values in logs.values() for value in values)
            own = fmean(logs[name]) - shared
            out[metric] = exp(_beyond_noise(shared, rounds) + _beyond_noise(own, rounds))
        return out


def _beyond_noise(value: float, rounds: int) -> float:
    return copysign(max(0.0, abs(value) - NOISE / sqrt(rounds)), value)
