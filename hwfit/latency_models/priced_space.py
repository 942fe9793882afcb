"""What of a space a table cannot price: left out of a derived space, or refused with the command that measures it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from hwfit.errors import HwfitError
from hwfit.kernels.op import Op
from hwfit.latency_models.differentiable import leaves, space_ops
from hwfit.latency_models.estimate import DataMiss
from hwfit.latency_models.whole import Prices
from hwfit.space import AXES, Space
from hwfit.workload import Phase

Missing = Mapping[Op, str]
"""Why there is no price."""


def needed_ops(space: Space, phases: Iterable[Phase]) -> dict[Op, set[str]]:
    """Every op that a search of the space has to price, and which of the model's layers need it."""
    out: dict[Op, set[str]] = defaultdict(set)
    for phase in phases:
        for name, grid in space_ops(space, phase).items():
            for op in leaves(grid):
                out[op].add(name)
    return out


def unpriced(space: Space, prices: Prices, phases: Iterable[Phase]) -> Missing:
    """The ops of the space that the table has no price for, each with the reason."""
    missing: dict[Op, str] = {}
    for op in needed_ops(space, phases):
        try:
            prices.predict(op)
        except DataMiss as miss:
            missing |= miss.missing
    return missing


def priceable(space: Space, prices: Prices, phases: Iterable[Phase]) -> tuple[Space, list[str]]:
    """The part of the space that the table prices in full, and what was left out: precisions first, then widths.

    Each step leaves out the precision or width most of whose ops are missing. The first width of an axis, the whole
    model's, is never left out: where that is missing, the space is returned as it is, for the caller to refuse.
    """
    phases, whole = list(phases), space
    missing, left_out = set(unpriced(space, prices, phases)), []
    while here := missing & needed_ops(space, phases).keys():
        all_here = len(needed_ops(space, phases))
        best: tuple[float, int, str, Space] | None = None
        for told, smaller in _smaller(space):
            ops = needed_ops(smaller, phases).keys()
            mended, lost = len(here) - len(missing & ops), all_here - len(ops)
            if mended and (best is None or (mended / lost, mended) > best[:2]):
                best = mended / lost, mended, told, smaller
        if best is None:
            return whole, []
        space = best[3]
        left_out.append(best[2])
    return space, left_out


def refuse_unpriced(
    told: str,
    space: Space,
    prices: Prices,
    phases: Iterable[Phase],
    command: str,
    why_not: Callable[[Op], str | None],
) -> None:
    """Raises `HwfitError` if the table cannot price all of a space: by precision, which layers and shapes are missing,
    and the command that measures them. `why_not` says what no kernel of the device runs at all."""
    phases = list(phases)
    missing = unpriced(space, prices, phases)
    if not missing:
        return
    layers = needed_ops(space, phases)
    by_kind: dict[tuple[str, str], list[Op]] = defaultdict(list)
    for op in missing:
        by_kind[op.kind, op.precision if op.kind in ("linear", "embed") else ""].append(op)
    lines, measurable = [], 0
    for (kind, precision), ops in sorted(by_kind.items()):
        name = precision or kind
        if reason := why_not(ops[0]):
            lines.append(f"{told}: {name} is not to be measured here: {reason}; leave it out of the space")
            continue
        measurable += len(ops)
        alike = sum(1 for op in layers if (op.kind, op.precision) == (kind, ops[0].precision))
        where = ", ".join(sorted(set().union(*(layers[op] for op in ops)))) if kind == "linear" else kind
        reason = missing[ops[0]].partition(";")[0]  # what else was measured is of no help here
        lines.append(f"{told}: {name}: {where}: {len(ops)} of {alike} shapes, {_ranges(ops)}: {reason}")
    head = f"{told}: the table of device '{prices.device}' cannot price {len(missing)} of {len(layers)} layer shapes"
    remedy = [f"measure them with: {command}"] if measurable else []
    raise HwfitError([head, *lines, *remedy])


def _smaller(space: Space) -> Iterable[tuple[str, Space]]:
    """The spaces without one precision, or without one width that is not the whole model's."""
    if len(space.precisions) > 1:
        for p in space.precisions:
            kept = {part: tuple(q for q in getattr(space, part) if q != p) for part in ("linears", "lm_head")}
            if all(kept[part] or not getattr(space, part) for part in kept):
                precisions = tuple(q for q in space.precisions if q != p)
                yield str(p), replace(space, precisions=precisions, **kept)
    for axis in AXES[:-1]:
        values = getattr(space, axis)
        for value in values[1:]:
            yield f"{axis}={value}", replace(space, **{axis: tuple(v for v in values if v != value)})


def _ranges(ops: list[Op]) -> str:
    """`m 1…128, n 192…576, k 64…576`: the sizes that mean something."""
    names = {"linear": ("m", "n", "k"), "embed": ("m", "k"), "attention": ("m", "n", "head_size", "context")}
    out = []
    for size in names.get(ops[0].kind, ("m", "k")):
        values = sorted({getattr(op, size) for op in ops})
        out.append(f"{size} {values[0]}" + (f"…{values[-1]}" if len(values) > 1 else ""))
    return ", ".join(out)
