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
SHARES = {"chosen": (0.05, SHARE), "chosen for all": (SHARE,), "random": (0.05, SHARE, 0.2, 0.4)}
SHARES |= {"random inside": (0.05, SHARE)}
Rows = NDArray[np.int64]
Picker = Callable[[Cells, int, int], Rows]
"""Which rows of some cells to measure, given how many and a seed."""


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
    fits = 1 + sum(map(len, SHARES.values()))
    out = RichTable("device", "precision", "cells", "in space", "full", *(f"{n} {s:.1%}" for n, s in _columns()))
    figures: dict[str, float] = {}
    with track(len(jobs) * options.folds * fits, "active sampling") as advance:
        for device, name, cells in jobs:
            errors = _errors(cells, options.folds, partial(advance, note=f"{device} {name}"))
            figures |= {f"{device}.{name}.{k}": v for k, v in _figures(errors, inside(cells)).items()}
            full = errors["full", 1.0, "space"]
            ratios = [f"{errors[n, s, 'space'] / full:.2f}" for n, s in _columns()]
            share = f"{inside(cells).mean():.0%}"
            out.add_row(device, name, str(len(cells)), share, f"{full:.2%}", *ratios)
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


def _columns() -> Iterator[tuple[str, float]]:
    return ((name, share) for name, shares in SHARES.items() for share in shares)


def _errors(cells: Cells, count: int, step: Callable[[], None]) -> dict[tuple[str, float, str], float]:
    """Median held-out error by picker, share of the cells and scope."""
    fold, targets = folds(cells, 0), inside(cells)
    found: dict[tuple[str, float, str], list[Array]] = defaultdict(list)
    for f in range(count):
        held = fold == f
        train, test = cells.where(~held), cells.where(held)

        def note(name: str, share: float, learned: Cells, test: Cells = test, held: Mask = held) -> None:
            wrong = np.abs(both(learned, 0)(test.sizes) / test.seconds - 1)
            found[name, share, "table"].append(wrong)
            found[name, share, "space"].append(wrong[targets[held]])
            step()

        note("full", 1.0, train)
        for name, shares in SHARES.items():
            wanted = [round(share * len(train)) for share in shares]
            rows = PICKERS[name](train, max(wanted), f)
            for share, number in zip(shares, wanted, strict=True):
                mask = np.zeros(len(train), dtype=bool)
                mask[rows[:number]] = True
                note(name, share, train.where(mask))
    return {key: float(np.median(np.concatenate(values))) for key, values in found.items()}


def _figures(errors: dict[tuple[str, float, str], float], targets: Mask) -> dict[str, float]:
    """Ratios to the full table's error, and how many times the chosen cells random ones must be for the same error."""
    full = errors["full", 1.0, "space"]
    random, within = _curve(errors, "random", "space"), _curve(errors, "random inside", "space")
    whole = _curve(errors, "random", "table")
    best = errors["chosen", SHARE, "space"]
    half = errors["chosen", SHARE / 2, "space"]
    everywhere = errors["chosen for all", SHARE, "table"]
    return {
        "in_space": float(targets.mean()),
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


def _curve(errors: dict[tuple[str, float, str], float], name: str, scope: str) -> tuple[list[float], list[float]]:
    """Shares, and the errors of a picker at them; the full table is the end of every curve."""
    points = [(share, e) for (picker, share, s), e in errors.items() if picker in (name, "full") and s == scope]
    shares, found = zip(*sorted(points), strict=True)
    return list(shares), list(found)


def _needed(curve: tuple[list[float], list[float]], error: float) -> float:
    """The least share of the cells at which a learning curve falls to `error`, log-linear between its points."""
    shares, errors = (np.log(values) for values in curve)
    errors = np.minimum.accumulate(errors)
    return float(np.exp(np.interp(-np.log(error), -errors, shares)))


def _chosen(cells: Cells, targets: Mask, count: int, seed: int) -> Rows:
    """Among the targets themselves, as `hwfit profile` does."""
    p, rows = cells.precision.name, np.flatnonzero(targets)
    sampler = Sampler({p: cells.sizes[rows]}, {p: cells.sizes[rows]}, cells.facts, seed)
    return rows[[one.row for one in sampler.choose(count)]]


def _random(cells: Cells, count: int, seed: int) -> Rows:
    return np.random.default_rng(seed).permutation(len(cells))[:count]


PICKERS: dict[str, Picker] = {
    "chosen": lambda cells, count, seed: _chosen(cells, inside(cells), count, seed),
    "chosen for all": lambda cells, count, seed: _chosen(cells, np.ones(len(cells), dtype=bool), count, seed),
    "random": _random,
    "random inside": lambda cells, count, seed: np.random.default_rng(seed).permutation(np.flatnonzero(inside(cells)))[
        :count
    ],
}

if __name__ == "__main__":
    main()
