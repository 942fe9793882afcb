"""Multipliers: one option for every item, of least total harm, under several limits on what the options use.

Everett (1963): each item takes its least harm + multipliers x use. One multiplier a limit is bisected in turns until
all hold; what is then left unspent goes, one swap at a time, to what it takes most harm from. Where multipliers find
nothing, an integer programme decides whether there is anything.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

Array = NDArray[np.float64]
Chosen = NDArray[np.intp]
BISECTIONS = 40
LOWEST, HIGHEST = 1e-9, 1e6
SWEEPS = 6
SECONDS = 2.0
SLIVER = 1e-9
"""Share of a limit that sums may exceed it by: rounding."""


def least_harm(harm: Array, moved: Array, here: Array) -> Chosen | None:
    """[items]: the option of each; None where no choice keeps all limits.

    `harm` is [items, options]; `here` [limits] what is used without any item and `moved` [limits, items, options] what
    an option adds, in shares of the limits.
    """
    if ((here + moved.min(2).sum(1)) > 1).any():
        return None
    chosen = _by_multipliers(harm, moved, here)
    if chosen is None:
        chosen = _by_programme(harm, moved, here)
    return None if chosen is None else _spent(chosen, harm, moved, here)


def used(chosen: Chosen, moved: Array, here: Array) -> Array:
    """[limits]: the shares that a choice uses."""
    return here + moved[:, np.arange(len(chosen)), chosen].sum(1)


def _by_multipliers(harm: Array, moved: Array, here: Array) -> Chosen | None:
    """Least harm of the choices that meet all limits on the way; None if none did."""
    multipliers = np.zeros(len(here))
    best: tuple[float, Chosen] | None = None

    def choose() -> tuple[Chosen, Array]:
        nonlocal best
        chosen = (harm + np.tensordot(multipliers, moved, 1)).argmin(1)
        shares = used(chosen, moved, here)
        total = float(harm[np.arange(len(chosen)), chosen].sum())
        if (shares <= 1).all() and (best is None or total < best[0]):
            best = total, chosen
        return chosen, shares

    for _ in range(SWEEPS if len(here) > 1 else 1):
        before = multipliers.copy()
        for i in range(len(here)):
            multipliers[i] = 0.0
            if choose()[1][i] <= 1:
                continue
            low, high = LOWEST, HIGHEST
            for _ in range(BISECTIONS):
                multipliers[i] = middle = np.sqrt(low * high)
                low, high = (low, middle) if choose()[1][i] <= 1 else (middle, high)
            multipliers[i] = high
            choose()
        if np.allclose(multipliers, before, rtol=1e-3, atol=0):
            break
    return best[1] if best else None


def _by_programme(harm: Array, moved: Array, here: Array) -> Chosen | None:
    items, options = harm.shape
    done = milp(
        harm.ravel(),
        constraints=[
            LinearConstraint(moved.reshape(len(here), -1), -np.inf, 1 - here),  # pyright: ignore[reportArgumentType]
            LinearConstraint(np.kron(np.eye(items), np.ones(options)), 1, 1),
        ],
        integrality=np.ones(harm.size),
        bounds=Bounds(0, 1),
        options={"time_limit": SECONDS, "mip_rel_gap": 1e-3},
    )
    if done.x is None:
        return None
    chosen = done.x.reshape(items, options).argmax(1)
    return chosen if (used(chosen, moved, here) <= 1 + SLIVER).all() else None


def _spent(chosen: Chosen, harm: Array, moved: Array, here: Array) -> Chosen:
    """Swaps that take most harm away and still keep all limits, until none is left."""
    chosen, items = chosen.copy(), np.arange(len(chosen))
    while True:
        gain = harm[items, chosen][:, None] - harm  # [items, options]
        after = used(chosen, moved, here)[:, None, None] + moved - moved[:, items, chosen][:, :, None]
        gain = np.where((after <= 1).all(0), gain, 0.0)
        item, option = np.unravel_index(gain.argmax(), gain.shape)
        if gain[item, option] <= 0:
            return chosen
        chosen[item] = option
