"""Generate: one sequence continued token by token with any model that has `prefill` and `decode`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hwfit.deploy.onnx_runner import pick
from hwfit.errors import HwfitError, raise_all


class Decoder(Protocol):
    """An `OnnxModel` or a `CudaModel`."""

    max_context: int

    def prefill(self, ids: Sequence[int]) -> Any: ...

    def decode(self, token: int) -> Any: ...


@dataclass(frozen=True)
class Generated:
    """`ids` without the prompt's and without the token that ended them; seconds of the two phases."""

    ids: tuple[int, ...]
    prompt_tokens: int
    prefill_seconds: float
    decode_seconds: float
    ended: bool

    @property
    def tokens_per_second(self) -> float | None:
        """Of the tokens after the first, which the prefill gives."""
        steps = len(self.ids) + self.ended - 1
        return steps / self.decode_seconds if steps > 0 and self.decode_seconds > 0 else None


def generate(
    model: Decoder,
    prompt: Sequence[int],
    tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    stop: Collection[int] = (),
    tell: Callable[[int], None] = lambda token: None,
) -> Generated:
    """Up to `tokens` more after `prompt`, the likeliest each time, or drawn at `temperature`; `tell` hears each.

    Stops before a token of `stop`. Raises `HwfitError` for an empty prompt, bad figures, or more than `max_context`.
    """
    problems = [] if prompt else ["--prompt is empty; give at least one token of text"]
    problems += [] if tokens >= 1 else [f"--tokens {tokens} must be at least 1"]
    problems += [] if temperature >= 0 else [f"--temperature {temperature} must be 0 (the likeliest token) or more"]
    raise_all(problems)
    if len(prompt) + tokens > model.max_context:
        room = model.max_context - len(prompt)
        raise HwfitError(
            f"--tokens {tokens} after a prompt of {len(prompt)} exceed this model's {model.max_context}; "
            + (f"at most {room}, or export again" if room > 0 else "export again")
            + " with a larger --max-context"
        )
    rng = np.random.default_rng(seed)
    start = time.perf_counter()
    token = pick(np.asarray(model.prefill(prompt)), temperature, rng)
    between = time.perf_counter()
    ids: list[int] = []
    while token not in stop:
        ids.append(token)
        tell(token)
        if len(ids) == tokens:
            break
        token = pick(np.asarray(model.decode(token)), temperature, rng)
    return Generated(tuple(ids), len(prompt), between - start, time.perf_counter() - between, token in stop)
