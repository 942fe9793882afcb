"""The joint search: widths, depth and per-linear precision together, one supernet, one architecture per budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from hwfit.errors import HwfitError
from hwfit.latency_models.choices import one_hot
from hwfit.latency_models.differentiable import ExpectedCost, expected_memory
from hwfit.latency_models.memory import memory
from hwfit.latency_models.whole import WholeModel
from hwfit.progress import track
from hwfit.search.budget import Budget
from hwfit.search.discretise import Cost, Picked, most_likely, repair, with_precision
from hwfit.search.knapsack import best_by_damage
from hwfit.search.lagrangian import AugmentedLagrangian
from hwfit.search.optimise import SearchSettings, StepLog, optimise_architecture, priced, train_shared
from hwfit.search.relax import Architecture
from hwfit.search.sensitivity import Damage, measure_damage
from hwfit.search.study import Study
from hwfit.search.supernet import Supernet
from hwfit.search.teacher import distillation_loss
from hwfit.space import Space
from hwfit.subnet import Subnet
from hwfit.workload import PHASES, Workload

SHARED_SHARE = 0.3
"""Share of the original's decode latency around which the shared weights are trained."""
WARM_STEPS = 300
WARM_RATE = 0.1
WARM_TEMPERATURE = 2e-4


@dataclass(frozen=True)
class Found:
    """One searched subnet: the budget it is for, and how it was found.

    `limits` are what the predictor was asked for; re-measuring tightens them when the device disagrees.
    """

    name: str
    budget: Budget
    picked: Picked
    subnet: Subnet
    limits: dict[str, float]
    log: tuple[StepLog, ...]
    precision_moves: bool = True


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
        self.costs = {
            phase: ExpectedCost(space, self.order, workload.phase(phase), latency.price, latency.overhead)
            for phase in PHASES
        }
        self.costs["memory"] = expected_memory(space, self.order, workload.context, workload.batch)
        self.supernet = Supernet(
            study.ordered.weights,
            study.config,
            space,
            self.order,
            study.ordered.energy,
            settings.rank,
            study.dtype,
            progress,
        )
        self.damage: Damage = measure_damage(self.supernet, study.validation.take(slice(0, 4)), progress)

    def cost(self, subnet: Subnet) -> dict[str, float]:
        """Predicted seconds of decode and prefill, bytes of memory."""
        return predicted_cost(self.latency, self.workload, subnet)

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
            loss = self.damage.surrogate(mean, self.study.space.depth) + constraint.penalty(costs)
            optimizer.zero_grad()
            (loss - WARM_TEMPERATURE * architecture.total_entropy()).backward()
            optimizer.step()
            constraint.update({name: c.detach() for name, c in costs.items()}, rate=0.05)

    def find(self, name: str, budget: Budget, key: str) -> Found:
        """Search one budget: warm start on the damage model, refine on the real loss, repair, keep the best."""
        return self._find(name, budget, budget.as_dict(), Architecture(self.study.space), key)

    def find_sequential(self, name: str, budget: Budget, key: str) -> Found:
        """The usual pipeline: search the architecture at full precision, then quantise it to one precision.

        At full precision the budget is the one that leaves the original's share of its cost: its limits times full
        over quantised cost of the original architecture. The precision is the one with the lowest loss.
        """
        space = self.study.space
        full = max(range(len(space.precisions)), key=lambda i: space.precisions[i].weight_bits)
        uniform = [i for i, p in enumerate(space.precisions) if not p.is_float and p.weight_bits >= 4]
        costs = [self.cost(Subnet.whole(space.shape, space.precisions[i], space.embed)) for i in (full, *uniform)]
        limits = {m: limit * costs[0][m] / min(c[m] for c in costs[1:]) for m, limit in budget.limits}
        architecture = Architecture(space)
        architecture.freeze_precision(full)
        return self._quantised(self._find(name, budget, limits, architecture, key, precision_moves=False), uniform)

    def _find(
        self,
        name: str,
        budget: Budget,
        limits: dict[str, float],
        architecture: Architecture,
        key: str,
        precision_moves: bool = True,
    ) -> Found:
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
        picked = self._best(starts, limits, precision_moves)
        subnet = picked.subnet(space, self.order)
        return Found(name, budget, picked, subnet, limits, tuple(log), precision_moves)

    def _best(self, starts: Sequence[Picked], limits: Mapping[str, float], precision_moves: bool) -> Picked:
        """Of the repaired `starts` and the damage model's own best, the one with the lowest validation loss."""
        space, harm = self.study.space, self.damage.table
        allowed = None if precision_moves else [starts[0].lm_head]
        own = best_by_damage(harm, space, self.order, self.cost, limits, allowed)
        picks = [repair(p, harm, space, self.order, self.cost, limits, precision_moves) for p in starts]
        picks += [repair(own, harm, space, self.order, self.cost, limits, precision_moves)] if own else []
        return min(dict.fromkeys(picks), key=lambda p: self.loss(p.subnet(space, self.order)))

    def _quantised(self, found: Found, precisions: Sequence[int]) -> Found:
        """`found` at the one of `precisions` with the lowest loss; widths and depth give way until the budget holds."""
        space, limits = self.study.space, found.budget.as_dict()
        options = []
        for index in precisions:
            start = with_precision(found.picked, index)
            try:
                picked = repair(start, self.damage.table, space, self.order, self.cost, limits, precision_moves=False)
            except HwfitError:
                continue
            options.append((self.loss(picked.subnet(space, self.order)), picked))
        if not options:
            raise HwfitError(f"no uniform precision meets {found.budget} by widths alone; allowed: a larger budget")
        _, picked = min(options, key=lambda option: option[0])
        return replace(found, picked=picked, subnet=picked.subnet(space, self.order), limits=limits)

    @torch.no_grad()
    def loss(self, subnet: Subnet, sequences: int = 8) -> float:
        """Distillation loss of a subnet inside the supernet, on validation text."""
        hot = one_hot(self.study.space, subnet, self.order).map(lambda t: t.float())
        rows = self.study.validation.take(slice(0, sequences))
        return float(distillation_loss(self.supernet(rows.ids, hot), rows))

    def tightened(self, found: Found, measured: Mapping[str, float]) -> Found:
        """Repair again under limits scaled by what the device said: predicted / measured, minus half a per cent."""
        predicted = self.cost(found.subnet)
        limits = {
            m: 0.995 * limit * min(1.0, predicted[m] / measured[m]) if m in measured else limit
            for m, limit in found.budget.limits
        }
        space = self.study.space
        if found.precision_moves:
            picked = self._best([found.picked], limits, True)
        else:
            picked = repair(found.picked, self.damage.table, space, self.order, self.cost, limits, False)
        return replace(found, picked=picked, subnet=picked.subnet(space, self.order), limits=limits)


def predicted_cost(latency: WholeModel, workload: Workload, subnet: Subnet) -> dict[str, float]:
    """Predicted seconds of decode and prefill, bytes of memory."""
    seconds = {p: latency.predict(subnet, workload.phase(p)).value for p in PHASES}
    return {**seconds, "memory": float(memory(subnet, workload.context, workload.batch))}


def fastest(space: Space, order: tuple[int, ...], cost: Cost) -> dict[str, float]:
    """The least each metric can cost: the smallest architecture at the precision that is cheapest for it."""
    kept = tuple(sorted(order[: space.depth[-1]]))
    smallest = [
        space.subnet(
            space.hidden[-1], space.heads[-1], space.head_size[-1], space.mlp[-1], kept, ((p,) * 7,) * len(kept), p
        )
        for p in space.precisions
    ]
    costs = [cost(s) for s in smallest]
    return {metric: min(c[metric] for c in costs) for metric in costs[0]}


def remeasure(
    searcher: Searcher,
    found: Mapping[str, Found],
    measure: Callable[[Mapping[str, Subnet]], Mapping[str, Mapping[str, float]]],
    rounds: int,
    tolerance: float = 0.0,
) -> dict[str, Found]:
    """Deploy every found subnet, time it, and repair those that miss their budget, up to `rounds` times."""
    out = dict(found)
    for _ in range(rounds):
        measured = measure({name: f.subnet for name, f in out.items()})
        late = {
            n: f for n, f in out.items() if not f.budget.within({**searcher.cost(f.subnet), **measured[n]}, tolerance)
        }
        if not late:
            break
        out |= {name: searcher.tightened(f, measured[name]) for name, f in late.items()}
    return out
