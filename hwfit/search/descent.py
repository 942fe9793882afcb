"""Descent: from undecided logits to picks that are likely to be good, by gradient: where the joint search starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from hwfit.latency_models.differentiable import Choices
from hwfit.search.discretise import Picked, most_likely
from hwfit.search.lagrangian import AugmentedLagrangian
from hwfit.search.optimise import Costs, LossAt, SearchSettings, StepLog, optimise_architecture, priced
from hwfit.search.relax import Architecture

WARM_STEPS = 300
WARM_RATE = 0.1
WARM_TEMPERATURE = 2e-4

Surrogate = Callable[[Choices], Tensor]
"""Expected damage of a distribution in nats, if choices added up."""


def warm_start(
    architecture: Architecture, costs: Costs, surrogate: Surrogate, limits: Mapping[str, float], stiffness: float
) -> None:
    """Minimise the additive damage model under `limits`; costs no forward pass."""
    logits = [p for p in architecture.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(logits, lr=WARM_RATE)
    constraint = AugmentedLagrangian(dict(limits), stiffness)
    for _ in range(WARM_STEPS):
        mean = architecture.mean()
        expected = priced(costs, mean, constraint.limits)
        loss = surrogate(mean) + constraint.penalty(expected)
        optimizer.zero_grad()
        (loss - WARM_TEMPERATURE * architecture.total_entropy()).backward()
        optimizer.step()
        constraint.update({name: c.detach() for name, c in expected.items()}, rate=0.05)


def descend(
    architecture: Architecture,
    costs: Costs,
    surrogate: Surrogate,
    loss_at: LossAt,
    limits: Mapping[str, float],
    settings: SearchSettings,
    path: Path,
    key: str,
    advance: Callable[..., None] = lambda *a, **k: None,
    tokens: int = 0,
) -> tuple[list[Picked], list[StepLog]]:
    """The likeliest picks after a warm start on `surrogate` and after `settings.steps` steps on `loss_at`.

    What is frozen in `architecture` is left alone. Neither pick need meet the limits.
    """
    warm_start(architecture, costs, surrogate, limits, settings.stiffness)
    first = most_likely(architecture.mean().map(Tensor.detach))
    log = optimise_architecture(loss_at, architecture, costs, limits, settings, path, key, advance, tokens)
    return [first, most_likely(architecture.mean().map(Tensor.detach))], log
