"""Differentiable: widths, depth and precisions together, by gradient through the supernet; the project's own search."""

from __future__ import annotations

from hwfit.search.strategies.base import Plan, Planned
from hwfit.search.strategies.guided import guided_search


class Differentiable(Planned):
    def plan(self) -> Plan:
        yield from guided_search(self, self.limits)
