"""Generate: the most likely continuation of a prompt, by anything that can be judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from hwfit.evaluate.target import Judged


def greedy(
    model: Judged, ids: Sequence[int], count: int, ends: frozenset[int], enough: Callable[[list[int]], bool]
) -> list[int]:
    """Up to `count` most likely tokens after `ids`; stops before one of `ends`, and as soon as `enough(tokens)`."""
    logits, out = model.prefill(ids), []
    while (token := _best(logits)) not in ends:
        out.append(token)
        if len(out) == count or enough(out):
            break
        logits = model.decode(token)
    return out


def _best(logits: Any) -> int:
    return int(logits.argmax() if isinstance(logits, torch.Tensor) else np.argmax(logits))
