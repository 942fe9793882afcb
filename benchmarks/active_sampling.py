"""How few cells a new device needs when they are chosen for the search space and workload, on replayed GPU tables.

Space: QLlama3 (arXiv 2606.04063, Table 1) at decode batches and prompt lengths of the table's own grid. Five folds with
whole (n, k) pairs held out; the error is the median over held-out cells inside the space, and, as `.table`, over all
held-out cells. Chosen by `hwfit profile`'s own sampler, or at random; one model (boosting and extra trees) learns from
all.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.common import parser, publish
from benchmarks.estimator_speed import SPACE
from benchmarks.latency_models import DEVICES, device_cells
from hwfit.latency_models.active import Sampler
from hwfit.latency_models.cells import Array, Cells, Mask
from hwfit.latency_models.contenders import both
from hwfit.latency_models.contest import FOLDS, folds
from hwfit.lut_store.table import Table
from hwfit.progress import track
from hwfit.space import LINEAR_WIDTHS

ROWS = (1, 8, 32, 128, 512, 2048)
"""Decode of three batches, prefill of three lengths."""
SHARE = 0.10
Rows = NDArray[np.int64]
Errors = dict[tuple[str, float, str], float]
"""Median held-out error by way, share of the cells and scope."""


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--device", action="append", choices=list(DEVICES), help="default: a100 and l40s")
    arguments.add_argument("--precision", action="append", help="fp16, int4, int8, w8a8 [default: all]")
    arguments.add_argument("--folds", type=int, default=FOLDS, help=f"how many of the {FOLDS} are held out")
    options = arguments.parse_args()
    devices = options.device or ["a100", "l40s"]
    with tempfile.TemporaryDirectory() as folder:
        jobs = [(d, *job) for d in devices for job in device_cells(d, Table(folder))]
    jobs = [job for job in jobs if job[1] in (options.precision or [job[1]])]
    fits = 1 + len(list(_columns()))
    out = RichTable("device", "precision", "cells", "in space", "full", *(f"{n} {s:.1%}" for n, s in _columns()))
    figures: dict[str, float] = {}
    with track(len(jobs) * options.folds * fits, "active sampling") as advance:
        for device, name, cells in jobs:
            targets = inside(cells)
            errors = _errors(cells, targets, options.folds, partial(advance, note=f"{device} {name}"))
            mine = {"in_space": float(targets.mean())} | _figures(errors)
            figures |= {f"{device}.{name}.{what}": value for what, value in mine.items()}
            full = errors["full", 1.0, "space"]
            ratios = [f"{errors[n, s, 'space'] / full:.2f}" for n, s in _columns()]
            out.add_row(device, name, str(len(cells)), f"{targets.mean():.0%}", f"{full:.2%}", *ratios)
    Console(width=160).print(out)
    for device in devices:
        for what in ("ratio10", "random_needs", "random_inside_needs", "table.ratio10", "table.random_needs"):
            values = [figures[f"{device}.{name}.{what}"] for d, name, _ in jobs if d == device]
            figures |= {f"{device}.{what}": float(np.exp(np.mean(np.log(values))))} if values else {}
    publish("active_sampling", figures, options.json)


def inside(cells: Cells) -> Mask:
    """Cells within the widths of some linear of the space, at rows of the workload."""
    m, n, k = cells.sizes.T
    found = np.zeros(len(cells), dtype=bool)
    for out, into in LINEAR_WIDTHS.values():
        ns, ks = (list(SPACE.widths(width).values()) for width in (out, into))
        found |= (n >= min(ns)) & (n <= max(ns)) & (k >= min(ks)) & (k <= max(ks))
    return found & np.isin(m, ROWS)


def _errors(cells: Cells, targets: Mask, count: int, step: Callable[[], None]) -> Errors:
    fold = folds(cells, 0)
    found: dict[tuple[str, float, str], list[Array]] = defaultdict(list)
    for f in range(count):
        held = fold == f
        test = cells.where(held)
        for name, share, learned in _samples(cells.where(~held), targets[~held], f):
            wrong = np.abs(both(learned, 0)(test.sizes) / test.seconds - 1)
            found[name, share, "table"].append(wrong)
            found[name, share, "space"].append(wrong[targets[held]])
            step()
    return {key: float(np.median(np.concatenate(values))) for key, values in found.items()}


def _samples(cells: Cells, targets: Mask, seed: int) -> Iterator[tuple[str, float, Cells]]:
    """The whole table, then what each way measures of it: name, share and cells."""
    yield "full", 1.0, cells
    every = np.arange(len(cells))
    for name, way in WAYS.items():
        counts = [round(share * len(cells)) for share in way.shares]
        rows = way.pick(cells, np.flatnonzero(targets) if way.aimed else every, max(counts), seed)
        for share, count in zip(way.shares, counts, strict=True):
            yield name, share, cells.where(np.isin(every, rows[:count]))


def _figures(errors: Errors) -> dict[str, float]:
    """Ratios to the full table's error, and how many times the chosen cells random ones must be for the same error."""
    full = errors["full", 1.0, "space"]
    random, within = _curve(errors, "random", "space"), _curve(errors, "random inside", "space")
    whole = _curve(errors, "random", "table")
    best = errors["chosen", SHARE, "space"]
    half = errors["chosen", SHARE / 2, "space"]
    everywhere = errors["chosen for all", SHARE, "table"]
    return {
        "full": full,
        "ratio10": best / full,
        "ratio5": half / full,
        "random.ratio10": errors["random", SHARE, "space"] / full,
        "random_inside.ratio10": errors["random inside", SHARE, "space"] / full,
        "random_needs": _needed(random, best) / SHARE,
        "random_inside_needs": _needed(within, half) / (SHARE / 2),
        "table.full": errors["full", 1.0, "table"],
        "table.ratio10": everywhere / errors["full", 1.0, "table"],
        "table.random_needs": _needed(whole, everywhere) / SHARE,
    }


def _curve(errors: Errors, name: str, scope: str) -> tuple[list[float], list[float]]:
    """Shares, and the errors of a picker at them; the full table is the end of every curve."""
    points = [(share, e) for (picker, share, s), e in errors.items() if picker in (name, "full") and s == scope]
    shares, found = zip(*sorted(points), strict=True)
    return list(shares), list(found)


def _needed(curve: tuple[list[float], list[float]], error: float) -> float:
    """The least share of the cells at which a learning curve falls to `error`, log-linear between its points."""
    shares, errors = (np.log(values) for values in curve)
    errors = np.minimum.accumulate(errors)
    return float(np.exp(np.interp(-np.log(error), -errors, shares)))


def _chosen(cells: Cells, among: Rows, count: int, seed: int) -> Rows:
    """What `hwfit profile` would measure if `among` were its plan."""
    p, sizes = cells.precision.name, cells.sizes[among]
    sampler = Sampler({p: sizes}, {p: sizes}, cells.facts, seed)
    return among[[one.row for one in sampler.choose(count)]]


def _random(cells: Cells, among: Rows, count: int, seed: int) -> Rows:
    return np.random.default_rng(seed).permutation(among)[:count]


@dataclass(frozen=True)
class Way:
    """Picks rows of some cells, given those it may pick from, how many and a seed; `aimed` ones stay in the space."""

    pick: Callable[[Cells, Rows, int, int], Rows]
    aimed: bool
    shares: tuple[float, ...]


WAYS = {
    "chosen": Way(_chosen, True, (SHARE / 2, SHARE)),
    "chosen for all": Way(_chosen, False, (SHARE,)),
    "random": Way(_random, False, (SHARE / 2, SHARE, 2 * SHARE, 4 * SHARE)),
    "random inside": Way(_random, True, (SHARE / 2, SHARE)),
}


def _columns() -> Iterator[tuple[str, float]]:
    return ((name, share) for name, way in WAYS.items() for share in way.shares)


if __name__ == "__main__":
    main()
