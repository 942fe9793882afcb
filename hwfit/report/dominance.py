"""Dominance: which rows of a run others beat, as far as the intervals of both axes can tell."""

from __future__ import annotations

from hwfit.report.results import Results, Row
from hwfit.search.front import Interval, dominated
from hwfit.workload import PhaseName


def beaten_rows(results: Results, phase: PhaseName) -> dict[str, str]:
    """`name -> row that beats it`: no slower in `phase`, no higher perplexity, one of them beyond the intervals."""
    return _beaten(list(results.rows), phase)


def joint_front(results: Results, phase: PhaseName) -> list[Row]:
    """The joint subnets that no other joint subnet beats, fastest first."""
    joint = results.of_kind("joint")
    beaten = _beaten(joint, phase)
    return sorted((row for row in joint if row.name not in beaten), key=lambda row: row.timing(phase).measured)


def _beaten(rows: list[Row], phase: PhaseName) -> dict[str, str]:
    return dominated({row.name: {phase: time_of(row, phase), "perplexity": perplexity_of(row)} for row in rows})


def time_of(row: Row, phase: PhaseName) -> Interval:
    timing = row.timing(phase)
    return Interval(timing.measured, timing.low, timing.high)


def perplexity_of(row: Row) -> Interval:
    return Interval(row.perplexity, row.perplexity_low, row.perplexity_high)
