"""Evidence: paired bootstrap over documents and seeds, and latency at equal perplexity along two fronts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

Array = NDArray[np.float64]
DRAWS = 2000


@dataclass(frozen=True)
class Judged:
    """One distilled subnet: measured `seconds`, `nats` a token of each held-out row, `correct` documents by task.

    `loss` is what the search ranked it by, before distillation, `held` whether the budget was kept as measured.
    """

    seconds: float
    nats: Array  # [rows]
    correct: dict[str, Array]  # [documents], 0 or 1
    loss: float
    held: bool
    subnet: Any

    @classmethod
    def of(
        cls,
        seconds: float,
        nats: Sequence[float],
        correct: Mapping[str, Sequence[bool]],
        loss: float,
        held: bool,
        subnet: Any,
    ) -> Judged:
        right = {task: np.asarray(outcomes, float) for task, outcomes in correct.items()}
        return cls(seconds, np.asarray(nats, float), right, loss, held, subnet)

    @property
    def points(self) -> float:
        """Mean accuracy over tasks, in per cent."""
        return 100 * float(np.mean([right.mean() for right in self.correct.values()]))

    @staticmethod
    def perplexity(many: Iterable[Judged]) -> float:
        return float(np.exp(np.mean([j.nats.mean() for j in many])))


BySeed = Mapping[int, Judged]


def difference(ours: BySeed, theirs: BySeed, seed: int = 0) -> dict[str, float]:
    """Ours minus theirs in points of mean accuracy and as a ratio of perplexities, with 95 % intervals.

    Seeds that both have and documents are drawn anew together, the same ones for both sides.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    rng = np.random.default_rng(seed)
    drawn = _weights(rng, len(seeds))  # [draws, seeds]

    def resampled(gaps: Array) -> Array:  # [seeds, documents] -> [draws]
        return np.einsum("ds,sn,dn->d", drawn, gaps, _weights(rng, gaps.shape[1]))

    tasks = list(ours[seeds[0]].correct)
    gaps = {t: np.stack([ours[s].correct[t] - theirs[s].correct[t] for s in seeds]) for t in tasks}
    points = 100 * np.mean([resampled(gap) for gap in gaps.values()], 0)
    nats = np.stack([ours[s].nats - theirs[s].nats for s in seeds])
    ratios = np.exp(resampled(nats))
    low, high = np.quantile(points, (0.025, 0.975))
    ppl_low, ppl_high = np.quantile(ratios, (0.025, 0.975))
    return {
        "points": 100 * float(np.mean([gap.mean() for gap in gaps.values()])),
        "low": float(low),
        "high": float(high),
        "ppl_ratio": float(np.exp(nats.mean())),
        "ppl_ratio_low": float(ppl_low),
        "ppl_ratio_high": float(ppl_high),
        "seconds_ratio": float(np.mean([ours[s].seconds / theirs[s].seconds for s in seeds])),
    }


def speedup(ours: Sequence[BySeed], theirs: Sequence[BySeed], seed: int = 0) -> dict[str, float]:
    """How many times as long they take for the perplexity of ours, where their fronts overlap; empty if nowhere.

    Both fronts are their points over budgets, straight lines between log seconds over log perplexity. Keys: `` for the
    value, `.low` and `.high` from drawing seeds anew.
    """
    common = sorted(set.intersection(*(set(by_seed) for by_seed in (*ours, *theirs)))) if ours and theirs else []
    if not common:
        return {}
    value = _ratio(_front(ours, common), _front(theirs, common))
    if value is None:
        return {}
    rng = np.random.default_rng(seed)
    draws = [rng.choice(common, len(common)).tolist() for _ in range(200)]
    ratios = [r for d in draws if (r := _ratio(_front(ours, d), _front(theirs, d))) is not None]
    low, high = np.quantile(ratios, (0.025, 0.975))
    return {"": value, ".low": float(low), ".high": float(high)}


def ranking(subnets: Sequence[Judged]) -> float:
    """Spearman correlation of what a search ranked subnets by with their held-out loss once distilled."""
    found = spearmanr([j.loss for j in subnets], [j.nats.mean() for j in subnets])
    return float(found.statistic)  # pyright: ignore[reportAttributeAccessIssue]


def _front(points: Sequence[BySeed], seeds: Sequence[int]) -> Array:
    """`[points, 2]`: mean log seconds and log perplexity over seeds, least perplexity first."""
    rows = [[(np.log(p[s].seconds), p[s].nats.mean()) for s in seeds] for p in points]
    front = np.asarray(rows).mean(1)
    return front[front[:, 1].argsort()]


def _ratio(ours: Array, theirs: Array) -> float | None:
    """Geometric mean over all points of either front that lie within the other's range of perplexities."""
    low, high = max(ours[0, 1], theirs[0, 1]), min(ours[-1, 1], theirs[-1, 1])
    at = np.array([q for q in (*ours[:, 1], *theirs[:, 1]) if low <= q <= high])
    if not len(at):
        return None
    gaps = [np.interp(at, front[:, 1], front[:, 0]) for front in (theirs, ours)]
    return float(np.exp(np.mean(gaps[0] - gaps[1])))


def _weights(rng: np.random.Generator, n: int) -> Array:
    """`[draws, n]`: shares of n things drawn n times with replacement."""
    return rng.multinomial(n, np.full(n, 1 / n), DRAWS) / n
