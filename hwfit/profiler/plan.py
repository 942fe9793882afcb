"""Plan: the distinct ops of a space as cells to measure, most useful first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hwfit.kernels.op import Op, linear
from hwfit.space import LINEAR_WIDTHS, Space
from hwfit.workload import PHASES, Phase, Workload

if TYPE_CHECKING:
    from hwfit.kernels.backend import Backend

Stage = Literal["coarse", "exact"]
ORIGINAL = "w32"
STAGES: tuple[Stage, ...] = ("coarse", "exact")


@dataclass(frozen=True)
class Cell:
    """An op to measure. `why_not` is the reason in words if the device cannot run it.

    Every width of the space lies between `coarse` cells of its own linear; `exact` cells replace interpolation.
    """

    op: Op
    stage: Stage
    why_not: str | None = None


def plan(space: Space, workload: Workload | Sequence[Workload], backend: Backend) -> list[Cell]:
    """Cells of the space for both phases of the workload (or of several: other batches, prompts), without repetition.

    Order: everything coarse for decode, then for prefill, then the exact linears, largest first, the two phases in
    turn; all precisions of a shape stay together. `latency_models.active` puts the exact ones into a better order.
    """
    workloads = [workload] if isinstance(workload, Workload) else workload
    phases = list(dict.fromkeys(w.phase(name) for name in PHASES for w in workloads))
    pairs = [_pairs(space, phase) for phase in phases]
    coarse: list[Op] = []
    for phase in phases:
        coarse += _others(space, phase)
        coarse += [op for m, n, k in _corners(space, phase) for op in _at_precisions(space, m, n, k)]
    by_size = sorted({p for found in pairs for p in found}, key=lambda p: (-p[1] * p[2], p))
    exact = [op for m, n, k in by_size for op in _at_precisions(space, m, n, k)]
    stages: dict[Op, Stage] = {**dict.fromkeys(exact, "exact"), **dict.fromkeys(coarse, "coarse")}
    return [Cell(op, stages[op], backend.why_not(op)) for op in dict.fromkeys([*coarse, *exact])]


def _families(space: Space, phase: Phase) -> Iterator[tuple[int, list[int], list[int]]]:
    """`(m, output widths, input widths)` of every linear, widths ascending; the LM head sees the last tokens only."""
    for name, (out, into) in LINEAR_WIDTHS.items():
        m = phase.batch if name == "lm_head" else phase.m
        yield m, sorted(set(space.widths(out).values())), sorted(set(space.widths(into).values()))


def _corners(space: Space, phase: Phase) -> list[tuple[int, int, int]]:
    """The corners of every linear's rectangle of widths, so that all that is inside can be interpolated."""
    found = {(m, n, k) for m, ns, ks in _families(space, phase) for n in (ns[0], ns[-1]) for k in (ks[0], ks[-1])}
    return sorted(found, reverse=True)


def _pairs(space: Space, phase: Phase) -> set[tuple[int, int, int]]:
    return {(m, n, k) for m, ns, ks in _families(space, phase) for n in ns for k in ks}


def _at_precisions(space: Space, m: int, n: int, k: int) -> list[Op]:
    return [linear(m, n, k, p.name) for p in space.precisions]


def _others(space: Space, phase: Phase) -> list[Op]:
    """Everything that is no linear: few ops, all of them measured."""
    m = phase.m
    attention = [
        Op("attention", m, heads, space.kv_heads(heads), head_size=size, context=phase.context)
        for heads in space.heads
        for size in space.head_size
    ]
    norms = [Op("norm", m, 0, hidden) for hidden in space.hidden]
    embeds = [Op("embed", m, space.shape.vocab, hidden, space.embed.name) for hidden in space.hidden]
    if space.embed.name != ORIGINAL:  # the original model's own
        embeds.append(Op("embed", m, space.shape.vocab, space.shape.hidden, ORIGINAL))
    return [*attention, *norms, *(Op("swiglu", m, 0, mlp) for mlp in space.mlp), *embeds]
