"""Random: the best of random subnets, what every other strategy has to beat."""

from __future__ import annotations

import random

from hwfit.search.discretise import Picked
from hwfit.search.strategies.base import Plan, Planned
from hwfit.search.strategies.draws import ATTEMPTS, fitting


class Random(Planned):
    """Ends where draw after draw gives nothing new."""

    guided = False

    def plan(self) -> Plan:
        problem, seen, stale = self.problem(), set[Picked](), 0
        rng = random.Random(f"{self.seed} {sorted(self.limits.items())}")
        while stale < ATTEMPTS:
            picked = fitting(problem, rng)
            stale = stale + 1 if picked in seen else 0
            seen.add(picked)
            yield [picked]
