"""Budgets: `decode=6ms`, `prefill=120ms`, `memory=90MB` as the user writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from hwfit.errors import nearest, raise_all

_UNITS = {
    "decode": {"us": 1e-6, "ms": 1e-3, "s": 1.0},
    "prefill": {"us": 1e-6, "ms": 1e-3, "s": 1.0},
    "memory": {"KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
}


@dataclass(frozen=True)
class Budget:
    """Upper limits by metric: seconds for `decode` and `prefill`, bytes for `memory`."""

    limits: tuple[tuple[str, float], ...]

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Budget:
        """One `metric=value` a text. Raises `HwfitError` listing every one that cannot be read."""
        limits: dict[str, float] = {}
        problems = []
        for text in texts:
            metric, _, value = text.partition("=")
            if metric not in _UNITS:
                problems.append(f"--budget {text}: metric '{metric}' is unknown; {nearest(metric, _UNITS)}")
                continue
            units = _UNITS[metric]
            match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]+)", value.strip())
            if not match or match[2] not in units or float(match[1]) <= 0:
                problems.append(
                    f"--budget {text}: '{value}' is no positive number with a unit; allowed units: {list(units)}"
                )
            elif metric in limits:
                problems.append(f"--budget {text}: {metric} is given twice")
            else:
                limits[metric] = float(match[1]) * units[match[2]]
        if not problems and not limits:
            problems.append("--budget is missing; give at least one, such as --budget decode=6ms")
        raise_all(problems)
        return cls(tuple(sorted(limits.items())))

    def as_dict(self) -> dict[str, float]:
        return dict(self.limits)

    def scaled(self, factor: float) -> Budget:
        """Every limit times `factor`."""
        return Budget(tuple((metric, limit * factor) for metric, limit in self.limits))

    def within(self, costs: dict[str, float], tolerance: float = 0.0) -> bool:
        return all(costs[metric] <= limit * (1 + tolerance) for metric, limit in self.limits)

    def __str__(self) -> str:
        return " ".join(f"{metric}={format_cost(metric, limit)}" for metric, limit in self.limits)


def format_cost(metric: str, value: float) -> str:
    return f"{value / 1e6:.4g}MB" if metric == "memory" else f"{value * 1e3:.4g}ms"


def refuse_infeasible(budgets: Iterable[Budget], fastest: dict[str, float]) -> None:
    """Raises `HwfitError` for every limit below what the smallest subnet of the space costs."""
    raise_all(
        [
            f"--budget {metric}={format_cost(metric, limit)} is below the fastest subnet of this space, "
            f"{format_cost(metric, fastest[metric])}; allowed: at least that"
            for budget in budgets
            for metric, limit in budget.limits
            if limit < fastest[metric]
        ]
    )
