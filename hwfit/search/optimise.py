"""Bilevel, first-order optimisation: weights on the train half, architecture on the validation half, one step each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from hwfit.errors import HwfitError
from hwfit.latency_models.differentiable import Choices
from hwfit.search import checkpoint, parallel
from hwfit.search.lagrangian import AugmentedLagrangian
from hwfit.search.relax import Architecture
from hwfit.search.steps_log import StepsLog
from hwfit.search.supernet import Supernet
from hwfit.search.teacher import Targets, distillation_loss

Costs = Mapping[str, nn.Module]
"""`metric -> ExpectedCost` in the metric's unit (seconds or bytes)."""
LossAt = Callable[[Choices, int], Tensor]
"""(choices, step) -> their loss on that step's text, or this process's share of it; differentiable."""
DAMAGES, LOSSES = RANKINGS = ("damages", "losses")
"""What picks are compared by. `losses` are those of a pick within the supernet: exact where nothing is trained
afterwards. `damages` are what its choices lose one by one, added up: what they lose beyond that when together,
distillation mends first, so that losses mislead (`benchmarks.joint_vs_sequential`)."""


@dataclass(frozen=True)
class SearchSettings:
    """Steps and rates. `concentration` is the Dirichlet's, growing from first to last over a budget's steps.

    `candidates` picks of the damage model compete with what the steps found, and the best of them walks to better
    neighbours for up to `trials` losses; `evaluations` (default: what these make) is how many losses any `strategy` may
    ask for. `rank_by` says which losses: see `RANKINGS`. Both are measured on `judged` validation sequences.
    Re-measured subnets are to use the share `aim` of each limit that the device decides: what streams from memory is
    slower by up to a tenth some minutes later on a shared machine, and the anchors tell of half of that.
    Checkpoints come every `checkpoint_every` steps and every `checkpoint_minutes` (0: by steps alone). `recompute`
    trades time for memory.
    """

    weight_steps: int = 8
    steps: int = 16
    sequences: int = 2
    lr_architecture: float = 0.25
    lr_weights: float = 1e-3
    concentration: tuple[float, float] = (2.0, 16.0)
    drop_below: float = 0.02
    stop_entropy: float = 0.05
    stiffness: float = 20.0
    rank: int = 8
    checkpoint_every: int = 4
    checkpoint_minutes: float = 5.0
    tensorboard: bool = False
    recompute: bool = False
    candidates: int = 3
    trials: int = 6
    judged: int = 8
    remeasure_rounds: int = 3
    aim: float = 0.95
    seed: int = 0
    strategy: str = "joint"
    evaluations: int | None = None
    rank_by: str = DAMAGES

    def training(self) -> SearchSettings:
        """Without what a run that goes on from a checkpoint may change: rates, checkpoints, logs, strategy, ranking and
        aim."""
        return replace(
            self,
            lr_architecture=0,
            lr_weights=0,
            checkpoint_every=0,
            checkpoint_minutes=0,
            tensorboard=False,
            recompute=False,
            strategy="",
            evaluations=None,
            rank_by="",
            aim=0,
        )


@dataclass(frozen=True)
class StepLog:
    """One architecture step, for the report and the live progress line."""

    step: int
    loss: float
    expected: dict[str, float]
    entropy: float
    multipliers: dict[str, float]


def batch(targets: Targets, count: int, step: int, seed: int) -> Targets:
    """`count` sequences drawn for this step alone, so that a resumed run draws the same ones."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return targets.take(torch.randperm(len(targets), generator=generator)[:count])


def train_shared(
    supernet: Supernet,
    architecture: Architecture,
    train: Targets,
    settings: SearchSettings,
    path: Path,
    key: str,
    advance: Callable[..., None] = lambda *a, **k: None,
) -> None:
    """Weight steps on the low-rank pairs while the architecture is sampled broadly around its start.

    Resumes from `path` when `key` matches, with another learning rate too unless the steps were done.
    """
    pairs = [p for name, p in supernet.named_parameters() if name.endswith(("up", "down"))]
    optimizer = torch.optim.AdamW(pairs, lr=settings.lr_weights, weight_decay=0.0)
    saves = checkpoint.Schedule(settings.checkpoint_every, settings.checkpoint_minutes)
    part = parallel.share(settings.sequences)
    start = 0
    if saved := checkpoint.resumable(path, key, settings.lr_weights):
        tensors, meta = saved
        supernet.load_state_dict({n: t for n, t in tensors.items() if n.startswith("linears.")}, strict=False)
        checkpoint.restore_optimizer(optimizer, tensors, "adam")
        checkpoint.set_rate(optimizer, settings.lr_weights)
        start = meta["step"]
        supernet.refresh()
        advance(start)
    with StepsLog(path, start, settings.tensorboard) as steps:
        for step in range(start, settings.weight_steps):
            generator = torch.Generator().manual_seed(settings.seed * 7_919 + step)
            choices = architecture.sample(settings.concentration[0], generator).map(Tensor.detach)
            rows = batch(train, settings.sequences, step, settings.seed).take(part)
            loss = distillation_loss(supernet(rows.ids, choices), rows)
            optimizer.zero_grad()
            loss.backward()
            parallel.mean_gradients(pairs)
            norm = nn.utils.clip_grad_norm_(pairs, 1.0)
            value = finite(torch.stack([parallel.mean(loss), norm]), f"weight step {step}", path, "--supernet-lr")
            optimizer.step()
            supernet.refresh()
            done = step + 1 == settings.weight_steps
            if saves.due(step + 1) or done:
                tensors = dict(supernet.named_parameters()) | checkpoint.optimizer_tensors(optimizer, "adam")
                meta = {"key": key, "step": step + 1, "lr": settings.lr_weights, "done": done}
                checkpoint.save(path, tensors, meta)
            steps.row(step, settings.sequences * rows.ids.shape[1], {"loss": value})
            advance(note=f"loss {value:.3f}")
    for p in pairs:
        p.requires_grad_(False)


def optimise_architecture(
    loss_at: LossAt,
    architecture: Architecture,
    costs: Costs,
    limits: Mapping[str, float],
    settings: SearchSettings,
    path: Path,
    key: str,
    advance: Callable[..., None] = lambda *a, **k: None,
    tokens: int = 0,
) -> list[StepLog]:
    """Move the architecture's logits until the expected costs meet `limits` at the lowest loss.

    `tokens` is what a step reads, for its log.

    Ends early once the entropy falls below `settings.stop_entropy`. Resumes from `path` when `key` matches, with
    another learning rate too unless the steps were done.
    """
    logits = [p for p in architecture.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(logits, lr=settings.lr_architecture, betas=(0.5, 0.99))
    constraint = AugmentedLagrangian(dict(limits), settings.stiffness)
    saves = checkpoint.Schedule(settings.checkpoint_every, settings.checkpoint_minutes)
    log: list[StepLog] = []
    parallel.same(architecture.parameters())
    if saved := checkpoint.resumable(path, key, settings.lr_architecture):
        tensors, meta = saved
        architecture.load_state_dict({n: t for n, t in tensors.items() if n.startswith("logits.")})
        checkpoint.restore_optimizer(optimizer, tensors, "adam")
        checkpoint.set_rate(optimizer, settings.lr_architecture)
        constraint.multipliers = meta["multipliers"]
        log = [StepLog(**entry) for entry in meta["log"]]
        advance(settings.steps if meta["done"] else len(log))
        if meta["done"]:
            return log
    first, last = settings.concentration
    with StepsLog(path, len(log), settings.tensorboard) as steps:
        for step in range(len(log), settings.steps):
            concentration = first * (last / first) ** (step / max(settings.steps - 1, 1))
            generator = torch.Generator().manual_seed(settings.seed * 104_729 + step)
            loss = loss_at(architecture.sample(concentration, generator), step)
            expected = priced(costs, architecture.mean(), constraint.limits)
            optimizer.zero_grad()
            (loss + constraint.penalty(expected).to(loss.device)).backward()
            parallel.mean_gradients(logits)
            norm = nn.utils.get_total_norm([p.grad for p in logits if p.grad is not None])
            seen = torch.stack([parallel.mean(loss), norm.to(loss.device)])
            value = finite(seen, f"architecture step {step}", path, "--architecture-lr")
            optimizer.step()
            constraint.update({name: c.detach() for name, c in expected.items()})
            architecture.drop_branches(settings.drop_below)
            entropy = architecture.entropy()
            priced_at = {name: float(c.detach()) for name, c in expected.items()}
            log.append(StepLog(step, value, priced_at, entropy, dict(constraint.multipliers)))
            done = entropy < settings.stop_entropy or step + 1 == settings.steps
            if saves.due(step + 1) or done:
                tensors = dict(architecture.state_dict()) | checkpoint.optimizer_tensors(optimizer, "adam")
                meta = {"key": key, "done": done, "lr": settings.lr_architecture, "log": [asdict(e) for e in log]}
                checkpoint.save(path, tensors, meta | {"multipliers": constraint.multipliers})
            steps.row(step, tokens, _columns(log[-1], limits))
            share = max(v / limits[name] for name, v in priced_at.items())
            advance(note=f"loss {log[-1].loss:.3f}, cost {share:.2f} of budget, entropy {entropy:.2f}")
            if done:
                advance(settings.steps - step - 1)
                break
    return log


def _columns(entry: StepLog, limits: Mapping[str, float]) -> dict[str, float]:
    """A step as logged: for each budgeted metric its expected cost, its slack (share of the limit left; below 0 is
    over) and its multiplier."""
    by_metric = {
        f"{kind}_{name}": value
        for name, cost in entry.expected.items()
        for kind, value in {
            "expected": cost,
            "slack": 1 - cost / limits[name],
            "multiplier": entry.multipliers[name],
        }.items()
    }
    return {"loss": entry.loss, **by_metric, "entropy": entry.entropy}


def priced(costs: Costs, choices: Choices, names: Mapping[str, float]) -> dict[str, Tensor]:
    return {name: costs[name](choices) for name in names}


def finite(seen: Tensor, where: str, path: Path | None, flag: str) -> float:
    """The loss of `seen`, a step's loss and gradient norm, as a number: the one wait for a GPU in a step.

    Raises `HwfitError` if either is not finite, before anything is saved; `flag` sets the stage's learning rate.
    """
    value, norm = seen.tolist()
    if math.isfinite(value) and math.isfinite(norm):
        return value
    what = f"gradient is {norm} (loss {value:.4g})" if math.isfinite(value) else f"loss is {value}"
    kept = f"the last good state is kept in {path}" if path and path.exists() else "no state was kept yet"
    raise HwfitError(f"{what} at {where}; stopped; {kept}; the same command with a lower {flag} goes on from there")
