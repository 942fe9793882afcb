"""Budgets as constraints: an augmented Lagrangian, so that the user sets milliseconds and no penalty weight."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class AugmentedLagrangian:
    """Inequality constraints cost <= limit in relative form v = cost / limit - 1 (Nocedal & Wright, section 17.4)."""

    limits: dict[str, float]
    stiffness: float = 20.0
    multipliers: dict[str, float] = field(default_factory=dict)

    def violations(self, costs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: costs[name] / limit - 1 for name, limit in self.limits.items()}

    def penalty(self, costs: dict[str, Tensor]) -> Tensor:
        """(1 / 2 rho) sum (max(0, mu + rho v)^2 - mu^2), differentiable in the costs."""
        rho, total = self.stiffness, torch.zeros(())
        for name, v in self.violations(costs).items():
            mu = self.multipliers.get(name, 0.0)
            total = total + ((mu + rho * v).clamp_min(0).square() - mu**2) / (2 * rho)
        return total

    def update(self, costs: dict[str, Tensor], rate: float = 0.5) -> None:
        """One multiplier step, mu <- max(0, mu + rate rho v)."""
        for name, v in self.violations(costs).items():
            self.multipliers[name] = max(0.0, self.multipliers.get(name, 0.0) + rate * self.stiffness * float(v))
