"""What is wrong with a space: one line a problem, all of them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwfit.subnet import LINEARS, Subnet
from hwfit.subnet import group_problems as subnet_problems

if TYPE_CHECKING:
    from hwfit.space import Space


def axis_problems(space: Space) -> list[str]:
    """Axes that are empty, wider than the model or unsorted, heads and head sizes that no Llama has, no precision."""
    s = space.shape
    limits = {"hidden": s.hidden, "heads": s.heads, "head_size": s.head_size, "mlp": s.mlp, "depth": s.blocks}
    problems = []
    for axis, limit in limits.items():
        values = getattr(space, axis)
        if not values or list(values) != sorted(set(values), reverse=True) or values[0] > limit or values[-1] < 1:
            problems.append(f"space: {axis}={values} must descend without repetition within 1…{limit}")
    problems += [
        f"space: heads={h} is no multiple of the model's {s.queries_per_kv} queries a KV head"
        for h in space.heads
        if h % s.queries_per_kv
    ]
    problems += [
        f"space: head_size={d} must be {s.head_size} divided by a power of two, and even (rotary frequencies stay a "
        "subset)"
        for d in space.head_size
        if d < 2 or d % 2 or s.head_size % d or (s.head_size // d) & (s.head_size // d - 1)
    ]
    if not space.precisions:
        problems.append("space: no precision; name at least one")
    for part in ("linears", "lm_head"):
        foreign = sorted(p.name for p in set(getattr(space, part)) - set(space.precisions))
        problems += [f"space: {part}={name} is not among its precisions" for name in foreign]
    return problems


def group_problems(space: Space) -> list[str]:
    """One line per linear whose width some group size does not divide."""
    return sorted({problem for subnet in _corners(space) for problem in subnet_problems(subnet)})


def _corners(space: Space) -> list[Subnet]:
    """One-block subnets that between them hold every width at every precision."""
    linears, heads = space.linears or space.precisions, space.lm_head or space.precisions
    pairs = [(p, p if p in heads else heads[0]) for p in linears] + [(linears[0], p) for p in heads if p not in linears]
    return [
        space.subnet(h, a, d, m, (0,), ((p,) * len(LINEARS),), head)
        for h in space.hidden
        for a in space.heads
        for d in space.head_size
        for m in space.mlp
        for p, head in pairs
    ]
