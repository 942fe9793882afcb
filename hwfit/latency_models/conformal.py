"""Conformal: the error that new cases stay within as often as asked, from the errors of held-out ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

COVER = 0.9


def conformal(errors: Sequence[float] | NDArray[np.float64], cover: float = COVER) -> float:
    """The split-conformal rank ceil(cover (n + 1)) of n `errors`; the largest where there are too few for it.

    Infinite without any. (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005.)
    """
    if not len(errors):
        return float("inf")
    rank = min(len(errors), int(np.ceil(cover * (len(errors) + 1))))
    return float(np.sort(errors)[rank - 1])
