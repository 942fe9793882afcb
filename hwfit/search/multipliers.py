"""Multipliers: one option for every item, of least total harm, under limits on what the options use.

Each item takes its least harm + multipliers x use (Everett 1963). One limit's multiplier is bisected. For several, the
linear programme leaves at most one item a limit undecided between options; of these all combinations are tried, with
the limits a little tighter until one fits. What is then left unspent goes, one swap at a time, to what it takes most
harm from. Where nothing fits, an integer programme decides whether there is anything.
"""

from __future__ import annotations

from functools import cache
from itertools import islice, product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_array, kron
from scipy.sparse import eye_array as eye

Array = NDArray[np.float64]
Chosen = NDArray[np.intp]
BISECTIONS = 50
LOWEST, HIGHEST = 1e-9, 1e6
COMBINATIONS = 4096
MIXTURES = 48
REMEMBERED = 8
TIGHTER = (0.0, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.03)
"""Shares of the limits that rounding may need."""
SECONDS = 5.0
ROUNDING = 1e-9


class Multipliers:
    """Solves problems with the same limits in turn; the multipliers of the last ones tell which are hopeless."""

    def __init__(self) -> None:
        self._last: list[Array] = []

    def least_harm(self, harm: Array, moved: Array, here: Array, below: float = np.inf) -> Chosen | None:
        """[items]: the option of each; None where no choice keeps all limits at a total harm `below` this.

        `harm` is [items, options]; `here` [limits] what is used without any item and `moved` [limits, items, options]
        what an option adds, in shares of the limits.
        """
        if impossible(moved, here):
            return None
        free = harm.argmin(1)
        if (used(free, moved, here) <= 1).all():
            return free
        if len(here) == 1:
            chosen = _bisected(harm, moved, here)
        elif any(_bound(m, harm, moved, here) >= below for m in self._last):
            return None
        else:
            chosen = self._programmed(harm, moved, here, below)
        return None if chosen is None else _spent(chosen, harm, moved, here)

    def _programmed(self, harm: Array, moved: Array, here: Array, below: float) -> Chosen | None:
        for tighter in TIGHTER:
            whole = linprog(
                *(harm.ravel(), moved.reshape(len(here), -1), 1 - tighter - here),
                *(_one_each(*harm.shape), np.ones(len(harm)), (0, 1)),
            )
            if tighter == 0:
                if whole.x is None or whole.fun >= below:
                    return None
                self._last = [-whole.ineqlin.marginals, *self._last[: REMEMBERED - 1]]
            if whole.x is None:
                break
            chosen = _rounded(whole.x.reshape(harm.shape), harm, moved, here)
            if chosen is not None:
                return chosen
        return _by_integers(harm, moved, here)


def used(chosen: Chosen, moved: Array, here: Array) -> Array:
    """[limits]: the shares that a choice uses."""
    return here + moved[:, np.arange(len(chosen)), chosen].sum(1)


def impossible(moved: Array, here: Array) -> bool:
    """Whether every choice breaks some limit, as far as mixtures of the limits tell."""
    mixtures = np.concatenate([np.eye(len(here)), _mixtures(len(here))])
    least = np.tensordot(mixtures, moved, 1).min(2).sum(1)
    return bool((mixtures @ (here - 1) + least > ROUNDING).any())


@cache
def _mixtures(limits: int) -> Array:
    return np.random.default_rng(0).dirichlet(np.ones(limits), MIXTURES if limits > 1 else 0)


def _bound(multipliers: Array, harm: Array, moved: Array, here: Array) -> float:
    """The least harm that any choice within the limits can have, by Lagrange."""
    return float((harm + np.tensordot(multipliers, moved, 1)).min(1).sum() + multipliers @ (here - 1))


def _bisected(harm: Array, moved: Array, here: Array) -> Chosen | None:
    low, high = LOWEST, HIGHEST
    best = (harm + high * moved[0]).argmin(1)
    if used(best, moved, here)[0] > 1:
        return None
    for _ in range(BISECTIONS):
        middle = np.sqrt(low * high)
        chosen = (harm + middle * moved[0]).argmin(1)
        low, high, best = (low, middle, chosen) if used(chosen, moved, here)[0] <= 1 else (middle, high, best)
    return best


def _rounded(shares: Array, harm: Array, moved: Array, here: Array) -> Chosen | None:
    """The least harmful within the limits of the choices that `shares` [items, options] leave open; None if none is."""
    chosen = shares.argmax(1)
    open_items = np.flatnonzero(shares.max(1) < 1 - 1e-6)
    options = [np.flatnonzero(shares[i] > 1e-6) for i in open_items]
    best: tuple[float, Chosen] | None = None
    for combination in islice(product(*options), COMBINATIONS):
        trial = chosen.copy()
        trial[open_items] = combination
        total = float(harm[open_items, list(combination)].sum())
        if (best is None or total < best[0]) and (used(trial, moved, here) <= 1).all():
            best = total, trial
    return best[1] if best else None


def _by_integers(harm: Array, moved: Array, here: Array) -> Chosen | None:
    rows = LinearConstraint(moved.reshape(len(here), -1), -np.inf, 1 - here)  # pyright: ignore[reportArgumentType]
    done = milp(
        harm.ravel(),
        constraints=[rows, LinearConstraint(_one_each(*harm.shape), 1, 1)],
        integrality=np.ones(harm.size),
        bounds=Bounds(0, 1),
        options={"time_limit": SECONDS, "mip_rel_gap": 0.01},
    )
    if done.x is None:
        return None
    chosen = done.x.reshape(harm.shape).argmax(1)
    return chosen if (used(chosen, moved, here) <= 1 + ROUNDING).all() else None


@cache
def _one_each(items: int, options: int) -> csr_array:
    """[items, items x options]: what adds up the options of each item."""
    return csr_array(kron(eye(items), np.ones((1, options))))


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
