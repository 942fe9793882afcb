"""`benchmarks.choices`: the rule that predicts a direction from tables alone, and what a search makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf

import numpy as np
import pytest
import torch
from replay_bench import random_damage
from search_llama import tiny_space

from benchmarks.choices.rule import Prediction, Told, observed, predictions
from benchmarks.choices.search import Bench, crossed
from benchmarks.choices.setting import CLASSES, CPU, KINDS, LinearsOnly, Redrawn, Setting
from hwfit.kernels.op import Op
from hwfit.latency_models.estimate import Estimate
from hwfit.latency_models.whole import WholeModel
from hwfit.search.sensitivity import Damage
from hwfit.space import AXES
from hwfit.workload import Workload

SPACE = tiny_space(*(names[CPU] for names in CLASSES.values()))
ORDER = (2, 0, 1)


@dataclass
class Prices:
    """Nanoseconds: `launch` and, for each input and output, `per` at the op's precision."""

    per: tuple[float, ...]
    launch: tuple[float, ...] = (0.0,) * len(CLASSES)
    device: str = "cpu-none"
    precisions: set[str] = field(default_factory=set)

    def price(self, op: Op) -> float:
        if op.kind != "linear":
            return inf
        at = [p.name for p in SPACE.precisions].index(op.precision)
        return 1e-9 * (self.launch[at] + self.per[at] * op.n * op.k)

    def predict(self, op: Op) -> Estimate:
        return Estimate(self.price(op), 0.0, inf, "measured")


FEW_BITS = Prices((32, 9, 9.5, 5))
EIGHT_BITS = Prices((32, 6, 14, 16))
LAUNCHES = Prices((0.1, 0.1, 0.1, 0.1), (5000, 8000, 11000, 12000))


def setting(name: str, prices: Prices) -> Setting:
    return Setting(name, SPACE, WholeModel(LinearsOnly(prices)), Workload(), "decode")


@pytest.fixture(scope="module")
def benches() -> dict[str, Bench]:
    """Precisions damage less than structure, as they do in real models."""
    rank, drawn = torch.tensor([ORDER.index(b) for b in range(3)]), random_damage(SPACE, 0)
    mild = replace(drawn, precision=0.05 * drawn.precision, lm_head=0.05 * drawn.lm_head)
    damage = Damage(mild, rank, SPACE.depth)
    named = {"bits": FEW_BITS, "eight": EIGHT_BITS, "launches": LAUNCHES}
    return {name: Bench(setting(name, prices), damage, ORDER) for name, prices in named.items()}


@pytest.fixture(scope="module")
def told(benches: dict[str, Bench]) -> dict[str, Told]:
    return {name: Told.of(bench.setting) for name, bench in benches.items()}


def signs(told: dict[str, Told], x: str, y: str) -> dict[str, int]:
    return {p.what: p.sign for p in predictions(told, [(x, y)])}


def test_the_rule_reads_regret_and_relief_off_a_table():
    """Two precisions are each the fastest of half the linears: neither is the fastest mix."""
    seconds = np.full((len(KINDS), 4), 10.0)
    seconds[:4, 1], seconds[4:, 2] = 2.0, 2.0  # the best mix takes 16; either everywhere 48, full precision 80
    none, half = seconds, seconds / 2
    found = Told.by(seconds, {axis: half if axis in ("mlp", "depth") else none for axis in AXES})
    assert found.regret == pytest.approx({"full": 64 / 48, "w8a8": 32 / 48, "w8": 32 / 48, "w4": 64 / 48})
    assert found.relief == {"hidden": 0, "heads": 0, "head_size": 0, "mlp": 0.5, "depth": 0.5}
    assert found.pull["share full"] == -1
    assert found.pull["kept mlp"] == -0.5


def test_prices_are_redrawn_from_their_intervals():
    class Wide(Prices):
        def predict(self, op: Op) -> Estimate:
            value = self.price(op)
            return Estimate(value, value / 1.5, value * 1.5, "predicted")

    of = Wide((1, 1, 1, 1))
    ops = [Op("linear", 1, n, 64, "w8a8") for n in range(1, 400)]
    ratios = np.array([Redrawn(of, 0).price(op) / of.price(op) for op in ops])
    assert 0.85 < np.mean((ratios > 1 / 1.5) & (ratios < 1.5)) < 0.95
    assert Redrawn(of, 0).price(ops[0]) == Redrawn(of, 0).price(ops[0]) != Redrawn(of, 1).price(ops[0])
    assert Redrawn(LinearsOnly(of), 0).price(Op("norm", 1, 0, 64)) == 0


def test_tables_that_disagree_give_directions_and_those_that_agree_none(told: dict[str, Told]):
    precisions = {what: sign for what, sign in signs(told, "bits", "eight").items() if what.startswith("share")}
    assert precisions == {"share w4": 1, "share w8a8": -1, "share w8": 1}
    launches = signs(told, "bits", "launches")
    assert launches["share full"] == -1
    assert launches["kept depth"] == 1
    assert launches["kept mlp"] == -1
    assert predictions(told, [("bits", "bits")]) == []
    assert signs(told, "eight", "bits") == {what: -sign for what, sign in signs(told, "bits", "eight").items()}


def test_choices_follow_their_own_tables_and_not_each_others(benches: dict[str, Bench], told: dict[str, Told]):
    picks = {name: bench.exact(1.0) for name, bench in benches.items()}
    seen = {name: observed(picked, SPACE, ORDER) for name, picked in picks.items() if picked}
    pairs = [("bits", "eight"), ("bits", "launches"), ("eight", "launches")]
    shares = [p for p in predictions(told, pairs) if p.what.startswith("share")]
    right = [p.outcome(seen[p.x], seen[p.y]) for p in shares]
    swapped = [p.outcome(seen[p.y], seen[p.x]) for p in shares]
    assert right.count("borne out") >= 6
    assert "against" not in right
    assert swapped.count("against") == right.count("borne out")
    assert "borne out" not in swapped


def test_outcome():
    one = Prediction("x", "y", "kept mlp", -1)
    outcomes = [one.outcome({"kept mlp": x}, {"kept mlp": 0.75}) for x in (0.5, 0.751, 1.0)]
    assert outcomes == ["borne out", "alike", "against"]


def test_an_own_choice_keeps_its_budget_and_no_other_that_does_is_better(benches: dict[str, Bench]):
    bits, eight = benches["bits"], benches["eight"]
    mine, own = bits.exact(1.0), eight.exact(1.0)
    assert mine
    assert own
    assert eight.used(own, 1.0) <= 1
    found = crossed(bits, eight, 1.0, mine, own, [mine])
    assert found.over == pytest.approx(eight.used(mine, 1.0) - 1)
    assert found.over > 0.1
    assert found.extra == pytest.approx(eight.harm(own) - eight.harm(mine))
    assert found.regret == inf
    assert crossed(eight, eight, 1.0, own, own, [own]).regret == 0
    front = [p for share in (0.3, 0.4, 0.5, 0.6) if (p := bits.exact(share))]
    assert crossed(bits, eight, 1.0, mine, own, front).regret >= 0
