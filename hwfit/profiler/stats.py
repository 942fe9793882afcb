"""Summary of noisy timings: low quantile, spread, and a bootstrap interval of the low quantile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

QUANTILE = 0.1
RESAMPLES = 200


@dataclass(frozen=True)
class Summary:
    """Seconds. `low`…`high` is the 95 % bootstrap interval of `p10`."""

    p10: float
    p50: float
    p90: float
    mean: float
    std: float
    low: float
    high: float
    samples: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    @property
    def spread(self) -> float:
        """Half width of the interval as a fraction of p10."""
        return self.half_width / self.p10


def summarise(times: list[float], scale: float = 1.0, builds: int = 1) -> Summary:
    """`times` in seconds, at least one, each multiplied by `scale`. Sample i is of build i modulo `builds`; all are
    moved to the mean p10 of the builds, each of which has a constant of its own (where its memory lies)."""
    x = _levelled(np.asarray(times) * scale, min(builds, len(times)))
    p10, p50, p90 = np.quantile(x, [QUANTILE, 0.5, 0.9])
    low, high = interval(x)
    return Summary(float(p10), float(p50), float(p90), float(x.mean()), float(x.std()), low, high, len(x))


def interval(x: np.ndarray) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of the p10 of `x` (fixed seed: the same samples give the same interval)."""
    draws = np.random.default_rng(0).integers(0, len(x), (RESAMPLES, len(x)))
    low, high = np.quantile(np.quantile(x[draws], QUANTILE, axis=1), [0.025, 0.975])
    return float(low), float(high)


def _levelled(x: np.ndarray, builds: int) -> np.ndarray:
    if builds == 1:
        return x
    low = np.array([np.quantile(x[i::builds], QUANTILE) for i in range(builds)])
    return x * (low.mean() / low)[np.arange(len(x)) % builds]
