"""python -m benchmarks.choices --json: see the package."""

from __future__ import annotations

import math
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import mean, median

from benchmarks import choices
from benchmarks.choices import show
from benchmarks.choices.rule import OUTCOMES, Prediction, Told, observed, predictions
from benchmarks.choices.search import EXACT, REDRAWN, Bench, Crossed, Picks, crossed, search
from benchmarks.choices.setting import (
    BATCHED,
    OWN,
    Setting,
    everything,
    imported,
    measure_own,
    settings,
    without_others,
)
from benchmarks.common import parser, publish
from benchmarks.latency_models import DEVICES
from benchmarks.strategies import DEVICE, SHAPE, load_damage
from hwfit.lut_store.shipped import SHIPPED
from hwfit.progress import track
from hwfit.space import Space

SHARES = (1.2, 1.0, 0.8, 0.6)
FRONT = [0.05 * i for i in range(6, 41)]
"""Budgets of the fronts that the cross table chooses from."""
PAIRS = {
    "workload": [
        ("cpu decode", "cpu prefill"),
        ("a100 decode", "a100 prefill"),
        ("a100 decode", f"a100 prefill x{BATCHED}"),
    ],
    "device": [("cpu decode", "a100 decode"), ("cpu prefill", "a100 prefill")],
}


def main() -> None:
    arguments = parser(choices.__doc__)
    arguments.add_argument("--device", default=DEVICE, help="the CPU's key [default: the shipped table's]")
    arguments.add_argument("--tables", default=SHIPPED, help="folder of the CPU's table [default: shipped]")
    arguments.add_argument("--shares", type=float, nargs="+", default=list(SHARES), help="of the fastest uniform model")
    arguments.add_argument("--strategies", nargs="*", default=["integer_programme", "joint"])
    arguments.add_argument("--seeds", type=int, default=3, help="of the replays")
    arguments.add_argument("--evaluations", type=int, default=16, help="of each strategy on a replay")
    arguments.add_argument("--measure", action="store_true", help=f"the GPU's own damages, into {OWN.name}")
    arguments.add_argument("--out", type=Path, default=Path("runs/choices"), help="keeps the A100's table and contests")
    options = arguments.parse_args()
    if options.measure:
        measure_own(SHAPE, options.device, options.out)
    else:
        run(options)


def run(options: Namespace) -> None:
    measured = Space.default(SHAPE)
    damage, order = load_damage(measured)
    damage = without_others(damage, measured)
    gpu_tables = options.out / "tables"
    gpu = imported(DEVICES["a100"], gpu_tables)
    compared = settings(SHAPE, options.device, options.tables, gpu, gpu_tables)
    told = {setting.name: Told.of(setting) for setting in compared}
    expected = {kind: predictions(told, pairs) for kind, pairs in PAIRS.items()}
    show.tables(compared, told)
    show.predicted(expected)
    benches = {setting.name: Bench(setting, damage, tuple(order)) for setting in compared}
    picks = dict(_searched(list(benches.values()), options, options.strategies))
    priced = everything(SHAPE, options.device, options.tables)
    beside = [Bench(s, damage, tuple(order)) for s in priced]
    beside += [_own(setting) for setting in compared if setting.name.startswith("a100")]
    picks |= {key: pick for key, pick in _searched(beside, options, []).items() if key[2] == EXACT}
    benches |= {bench.setting.name: bench for bench in beside}
    show.picked(benches, picks, options.shares)
    show.kinds({s.name: benches[s.name] for s in compared}, picks, options.shares)
    figures = _outcomes(benches, picks, expected, options)
    for linears, all_ops in zip(compared, priced, strict=False):
        figures[f"{linears.name}.linears"] = linears.fastest / all_ops.fastest
    figures |= _crossed({s.name: benches[s.name] for s in compared}, picks, options.shares)
    publish("choices", figures, options.json)


def _own(setting: Setting) -> Bench:
    """With the damages of the GPU's own precisions."""
    damage, order = load_damage(setting.space, OWN)
    return Bench(replace(setting, name=f"{setting.name}, own damages"), damage, tuple(order))


def _searched(benches: Sequence[Bench], options: Namespace, strategies: Sequence[str]) -> Picks:
    total = len(benches) * len(options.shares) * (1 + (1 + len(strategies)) * options.seeds)
    picks = {}
    with track(total, "searching") as advance:
        found = search(benches, options.shares, strategies, options.seeds, options.evaluations)
        for key, picked in found:
            picks[key] = picked
            advance(note=f"{key[0]} {key[1]:.0%}")
    return picks


def _outcomes(
    benches: Mapping[str, Bench], picks: Picks, expected: Mapping[str, list[Prediction]], options: Namespace
) -> dict[str, float]:
    """Counts of each outcome by what differs and method, means and ranges of the seeds; budgets that a setting cannot
    keep do not count."""
    methods = [(EXACT, 0), *product((REDRAWN, *options.strategies), range(options.seeds))]
    seen: dict[tuple[str, str, int], list[tuple[Prediction, float, str]]] = {}
    for kind, predicted in expected.items():
        for (method, seed), share, one in product(methods, options.shares, predicted):
            pair = [picks[name, share, method, seed] for name in (one.x, one.y)]
            if None not in pair:
                x, y = (
                    observed(p, benches[n].setting.space, benches[n].order)
                    for p, n in zip(pair, (one.x, one.y), strict=True)
                    if p is not None
                )
                seen.setdefault((kind, method, seed), []).append((one, share, one.outcome(x, y)))
    show.outcomes(seen, options.shares)
    counted: dict[tuple[str, str, str], list[float]] = {}
    for (kind, method, _), outcomes in seen.items():
        counts = Counter(outcome for _, _, outcome in outcomes)
        for outcome in OUTCOMES:
            counted.setdefault((kind, method, outcome), []).append(float(counts[outcome]))
    figures = {}
    for (kind, method, outcome), counts in counted.items():
        name = f"{kind}.{method}.{outcome.replace(' ', '_')}"
        spread = {f"{name}.low": min(counts), f"{name}.high": max(counts)} if len(counts) > 1 else {}
        figures |= {name: mean(counts)} | spread
    return figures


def _crossed(benches: Mapping[str, Bench], picks: Picks, shares: Sequence[float]) -> dict[str, float]:
    """Every setting's exact pick under every other's budget."""
    fronts = {}
    with track(len(benches) * len(FRONT), "fronts") as advance:
        for name, bench in benches.items():
            found = []
            for share in FRONT:
                found.append(bench.exact(share))
                advance(note=name)
            fronts[name] = [p for p in found if p is not None]
    table: dict[tuple[str, str, float], Crossed] = {}
    for x, y, share in product(benches, benches, shares):
        mine, own = picks[x, share, EXACT, 0], picks[y, share, EXACT, 0]
        if x != y and mine is not None and own is not None:
            front = [*fronts[x], mine]
            table[x, y, share] = crossed(benches[x], benches[y], share, mine, own, front)
    show.crossed(table, list(benches), shares)
    figures: dict[str, float] = {}
    for kind, pairs in PAIRS.items():
        both = [table[x, y, s] for a, b in pairs for x, y in ((a, b), (b, a)) for s in shares if (x, y, s) in table]
        over, lost = [c.over for c in both if c.over > 0], [c.regret for c in both if math.isfinite(c.regret)]
        counts = {"count": len(both), "broken": len(over), "none_fits": len(both) - len(lost)}
        if over:
            counts |= {"over_median": median(over), "over_max": max(over)}
        if lost:
            counts |= {"regret_median": median(lost), "regret_max": max(lost)}
        figures |= {f"crossed.{kind}.{name}": float(value) for name, value in counts.items()}
    return figures


if __name__ == "__main__":
    main()
