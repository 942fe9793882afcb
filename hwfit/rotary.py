"""Rotary: the angles by which a Llama turns queries and keys, plain or stretched for long contexts as Llama 3 does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwfit.errors import raise_all
from hwfit.files import is_number

KINDS = ("default", "llama3")
_STRETCH = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


@dataclass(frozen=True)
class Stretch:
    """Llama 3's scaling: waves longer than `original / low` tokens are `factor` times as long, those shorter than
    `original / high` stay, and between them the two are blended (transformers' `rope_type: llama3`)."""

    factor: float
    low: float
    high: float
    original: float

    def __call__(self, frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
        waves = self.original * frequencies / (2 * math.pi)  # in the original context
        keep = np.clip((waves - self.low) / (self.high - self.low), 0, 1)
        return frequencies * (keep + (1 - keep) / self.factor)


@dataclass(frozen=True)
class Rotary:
    """Pair i of a head of d channels turns by theta^(-2 i / d) a token, stretched or not."""

    theta: float = 10_000.0
    stretch: Stretch | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Rotary:
        """From a Hugging Face `config.json`, in either spelling. Raises `HwfitError` with all `rotary_problems`."""
        raise_all(rotary_problems(config))
        options = _options(config)
        stretch = Stretch(*(float(options[key]) for key in _STRETCH)) if _kind(options) == "llama3" else None
        return cls(float(options.get("rope_theta") or 10_000.0), stretch)

    def to_config(self) -> dict[str, Any]:
        """`rope_parameters` of transformers 5."""
        if self.stretch is None:
            return {"rope_type": "default", "rope_theta": self.theta}
        s = self.stretch
        values = dict(zip(_STRETCH, (s.factor, s.low, s.high, int(s.original)), strict=True))
        return {"rope_type": "llama3", "rope_theta": self.theta, **values}

    def tables(self, head_size: int, length: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """cos and sin fp32 `[length, head_size / 2]`, computed in float64."""
        frequencies = self.theta ** (-np.arange(0, head_size, 2, dtype=np.float64) / head_size)
        if self.stretch:
            frequencies = self.stretch(frequencies)
        angles = np.arange(length, dtype=np.float64)[:, None] * frequencies
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotary_problems(config: Mapping[str, Any]) -> list[str]:
    """What of a config's rotary embedding hwfit cannot compute, one line each."""
    foreign = [key for key in ("rope_scaling", "rope_parameters") if not isinstance(config.get(key) or {}, dict)]
    if foreign:
        return [f"config.json: {key}={config[key]!r:.60} must be an object" for key in foreign]
    options = _options(config)
    theta = options.get("rope_theta") or 10_000.0
    if not is_number(theta) or theta <= 0:
        return [f"config.json: rope_theta={theta!r:.60} must be a number above 0"]
    kind = _kind(options)
    if kind not in KINDS:
        return [f"config.json: rope type {kind} is not supported; allowed: {', '.join(KINDS)}"]
    found = []
    if kind == "llama3":
        numbers = {key: options.get(key) for key in _STRETCH}
        found = [
            f"config.json: {key}={value} of rope type llama3 must be a number above 0"
            for key, value in numbers.items()
            if value is None or not is_number(value) or value <= 0
        ]
        if not found and options["high_freq_factor"] <= options["low_freq_factor"]:
            found = ["config.json: high_freq_factor of rope type llama3 must be above low_freq_factor"]
    return found


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers 5's `rope_parameters`, over the older top-level keys."""
    old = {"rope_theta": config["rope_theta"]} if config.get("rope_theta") else {}
    return {**old, **(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}


def _kind(options: Mapping[str, Any]) -> str:
    return str(options.get("rope_type") or options.get("type") or "default")
