"""One contract for every strategy, on a replayed problem whose optimum is known by brute force."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from made_up import every_pick
from replay_bench import bench, by_block, one_block
from search_llama import SHAPE, tiny_space

from hwfit.errors import HwfitError
from hwfit.latency_models.choices import outside
from hwfit.search.discretise import WIDTHS, Picked
from hwfit.search.strategies import STRATEGIES, strategy_named
from hwfit.search.strategies.base import Planned, Scored, within
from hwfit.search.strategies.drive import run_strategy
from hwfit.search.strategies.picks import canonical, from_json, to_json, whole
from hwfit.search.strategies.replay import Replay

EVALUATIONS = 24
REACH = {
    "joint": 1.02,
    "integer_programme": 1.02,
    "evolutionary": 1.5,
    "random": 1.6,
    "sequential": 1.7,
    "quantise_first": 1.0,
    "bits": 1.1,
    "uniform": 1.0,
}
"""Loss over the best of what a strategy may choose, after `EVALUATIONS`."""


@pytest.fixture(autouse=True)
def short_warm_start(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hwfit.search.descent.WARM_STEPS", 20)


@pytest.fixture(params=list(STRATEGIES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


SPACES = {"by linear": tiny_space("w32", "w8a8", "w4a8"), "by block": by_block()}


@cache
def three_blocks(space: str = "by linear") -> Replay:
    return bench(SPACES[space])


def limits_of(of: Replay, share: float = 1.05) -> dict[str, float]:
    """What the whole model in 4 bits costs, and a little; binding in decode, memory and prefill at once."""
    costs = of.costs(whole(of.space, len(of.space.precisions) - 1))
    return {metric: share * costs[metric] for metric in ("decode", "memory", "prefill")}


def make(name: str, of: Replay, seed: int = 0, evaluations: int = EVALUATIONS) -> Planned:
    return STRATEGIES[name](of, limits_of(of), evaluations, seed)


def asked(strategy: Planned, of: Replay, count: int = EVALUATIONS, n: int = 4) -> list[Picked]:
    out: list[Picked] = []
    while len(out) < count and (picks := strategy.ask(min(n, count - len(out)))):
        for picked in picks:
            strategy.tell(picked, Scored(of.loss(picked), of.costs(picked)))
        out += picks
    return out


@pytest.mark.parametrize("space", SPACES)
def test_asks_within_space_and_limits_and_never_twice(name: str, space: str):
    of = three_blocks(space)
    strategy = make(name, of)
    picks = asked(strategy, of)
    assert picks
    assert len(set(picks)) == len(picks)
    for picked in picks:
        assert canonical(picked, of.space, of.block_order) == picked
        assert not outside(of.space, picked.subnet(of.space, of.block_order))
        assert from_json(json.loads(json.dumps(to_json(picked))), of.space) == picked
    beyond = [p for p in picks if not within(of.costs(p), limits_of(of))]
    assert not beyond or name == "sequential"  # its first stage is at full precision
    for picked in picks:
        subnet = picked.subnet(of.space, of.block_order)
        assert all(getattr(picked, axis) in (0, (0,) * 3) for axis in set(WIDTHS) - set(strategy.freedom.widths))
        assert strategy.freedom.precisions or len({p for row in subnet.precision for p in row}) == 1


def test_best_is_the_least_told_that_meets_the_limits(name: str):
    of = three_blocks()
    strategy = make(name, of)
    assert strategy.best() is None
    picks = asked(strategy, of)
    meeting = [p for p in picks if within(of.costs(p), limits_of(of))]
    best = strategy.best()
    assert best is not None
    assert best[1].loss == min(map(of.loss, meeting))
    assert best[0] in meeting
    # what was not asked for counts too, unless it exceeds a limit
    strategy.tell(whole(of.space, 0), Scored(-2.0, of.costs(whole(of.space, 0))))
    assert strategy.best() == best
    small = Picked(1, 1, 1, 2, 2, ((2,) * 7,) * 3, 2)
    strategy.tell(small, Scored(-1.0, of.costs(small)))
    assert strategy.best() == (canonical(small, of.space, of.block_order), Scored(-1.0, of.costs(small)))


def test_a_seed_decides_every_pick(name: str):
    of = three_blocks()
    first, again = (asked(make(name, of, seed=3), of, n=n) for n in (4, 1))
    assert first == again
    if name in ("random", "evolutionary"):
        assert asked(make(name, of, seed=4), of) != first


def test_asking_again_before_telling_gives_the_same(name: str):
    strategy = make(name, three_blocks())
    assert strategy.ask(2) == strategy.ask(2) != []


def test_reaches_the_best_of_what_it_may_choose(name: str):
    of = bench(one_block(), seed=1)
    strategy = make(name, of)
    limits = limits_of(of)
    free = strategy.freedom
    reach = [
        of.loss(p)
        for p in every_pick(of.space)
        if (free.precisions or len({*p.precision[0], p.lm_head}) == 1)
        and all(a in free.widths or getattr(p, a) == 0 for a in WIDTHS)
        and within(of.costs(p), limits)
    ]
    outcome = run_strategy(strategy, of, EVALUATIONS, progress=False)
    assert min(reach) <= outcome.scored.loss <= REACH[name] * min(reach)
    assert outcome.scored.loss == outcome.curve[-1] == of.loss(outcome.picked)
    assert list(outcome.curve) == sorted(outcome.curve, reverse=True)
    assert outcome.after(3) == outcome.curve[min(3, len(outcome.curve)) - 1]


@pytest.mark.slow
def test_evolution_beats_chance_where_there_is_much_to_choose():
    space = replace(tiny_space("w32", "w8a8", "w4a8"), shape=replace(SHAPE, blocks=12), depth=(12, 10, 8))
    of = bench(space, strength=0.0)
    found = {
        name: [run_strategy(make(name, of, seed, 160), of, 160, progress=False).scored.loss for seed in range(2)]
        for name in ("evolutionary", "random")
    }
    assert sum(found["evolutionary"]) < 0.9 * sum(found["random"])


def test_impossible_limits_are_refused(name: str):
    of = three_blocks()
    with pytest.raises(HwfitError, match="allowed: a larger budget"):
        run_strategy(STRATEGIES[name](of, {"decode": 1e-9}, 8), of, 8, progress=False)


def test_goes_on_under_tighter_limits(name: str):
    of = three_blocks()
    strategy = make(name, of)
    asked(strategy, of)
    tighter = {m: 0.97 * limit for m, limit in limits_of(of).items()}
    again = strategy.again(tighter, EVALUATIONS)
    try:
        outcome = run_strategy(again, of, EVALUATIONS, progress=False)
    except HwfitError:
        assert name == "uniform"  # has one model to offer
        return
    assert outcome.scored.meets(tighter)
    known = [s.loss for s in strategy.told.values() if s.meets(tighter)]
    assert outcome.scored.loss <= min(known, default=math.inf)


@dataclass
class Counted:
    """A replay that counts, and fails at its `dies`-th loss."""

    of: Replay
    dies: int = 1 << 30
    losses: list[Picked] = field(default_factory=list)

    def loss(self, picked: Picked) -> float:
        if len(self.losses) == self.dies:
            raise KeyboardInterrupt
        self.losses.append(picked)
        return self.of.loss(picked)

    def costs(self, picked: Picked) -> Mapping[str, float]:
        return self.of.costs(picked)

    def __getattr__(self, attribute: str):
        return getattr(self.of, attribute)


def test_a_killed_run_goes_on_where_it_was(name: str, tmp_path: Path):
    of = three_blocks()
    undisturbed, killed, resumed = Counted(of), Counted(of, dies=2), Counted(of)
    want = run_strategy(make(name, of), undisturbed, 20, progress=False)
    log = tmp_path / "losses.jsonl"
    if len(undisturbed.losses) > 2:
        with pytest.raises(KeyboardInterrupt):
            run_strategy(make(name, of), killed, 20, log, progress=False)
    else:
        run_strategy(make(name, of), killed, 20, log, progress=False)
    got = run_strategy(make(name, of), resumed, 20, log, progress=False)
    assert got == want
    assert killed.losses + resumed.losses == undisturbed.losses
    nothing = Counted(of, dies=0)
    assert run_strategy(make(name, of), nothing, 20, log, progress=False) == want


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path):
    of = three_blocks()

    class Broken(Counted):
        def loss(self, picked: Picked) -> float:
            return math.nan if len(self.losses) == 1 else super().loss(picked)

    with pytest.raises(HwfitError, match="loss is nan"):
        run_strategy(make("random", of), Broken(of), 9, tmp_path / "l.jsonl", progress=False)
    assert len((tmp_path / "l.jsonl").read_text().splitlines()) == 2


def test_unknown_and_missing_strategies_are_refused(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(HwfitError, match="did you mean random"):
        strategy_named("rando")
    monkeypatch.setattr("hwfit.search.strategies.find_spec", lambda name: None)
    with pytest.raises(HwfitError, match=r"needs pymoo; pip install 'hwfit\[strategies\]'"):
        strategy_named("evolutionary")
    assert strategy_named("joint") is STRATEGIES["joint"]


def test_replayed_loss_is_the_sum_of_damages_and_their_products():
    of = three_blocks()
    picked = Picked(1, 0, 1, 2, 1, ((1,) * 7, (2,) * 7, (0, 1, 2, 0, 1, 2, 0)), 2)
    table, kept = of.damage.table, of.block_order[:2]
    d = [float(getattr(table, a)[getattr(picked, a)]) for a in WIDTHS] + [float(table.lm_head[2])]
    for b in range(3):
        rows = sum(float(table.precision[b, i, p]) for i, p in enumerate(picked.precision[b]))
        d.append(rows if b in kept else 0.0)
    assert of.interaction is not None
    want = sum(d) + sum(float(of.interaction[i, j]) * d[i] * d[j] for i in range(9) for j in range(i + 1, 9))
    assert of.loss(picked) == pytest.approx(want, rel=1e-9)
    assert float(torch.tril(of.interaction).abs().max()) == 0
