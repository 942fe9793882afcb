"""The loss that each search strategy reaches after so many evaluations, under three decode budgets on SmolLM2-135M.

By default without the model: costs come from the shipped table of a CPU, losses from damages as they were measured on
the model (`benchmarks/results/smollm2_damage.json`, made by `--measure`) that compound in a made-up way, drawn anew for
every seed. With `--supernet` losses are those of the real model's supernet, kept under `--out`: the same command
resumes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.common import parser, provenance, publish
from hwfit.errors import HwfitError
from hwfit.files import write_text
from hwfit.latency_models.choices import Choices
from hwfit.latency_models.load import load_latency
from hwfit.models.llama import open_model
from hwfit.progress import track
from hwfit.search.baseline import fastest_uniform
from hwfit.search.costs import ExpectedCosts, predicted_cost
from hwfit.search.joint import Searcher
from hwfit.search.optimise import LOSSES, SearchSettings
from hwfit.search.sensitivity import Damage
from hwfit.search.strategies import STRATEGIES
from hwfit.search.strategies.base import Evaluator
from hwfit.search.strategies.drive import run_strategy
from hwfit.search.strategies.on_supernet import OnSupernet
from hwfit.search.strategies.replay import Replay, compounding
from hwfit.search.study import StudySettings, prepare
from hwfit.space import Space
from hwfit.subnet import ModelShape
from hwfit.workload import Workload

DEVICE = "cpu-amd-epyc-26-2-4e0027"
SHAPE = ModelShape(hidden=576, heads=9, kv_heads=3, head_size=64, mlp=1536, blocks=30, vocab=49152)
DAMAGE = Path(__file__).parent / "results" / "smollm2_damage.json"
SHARES = (1.0, 0.8, 0.6)
"""Budgets as shares of the fastest uniform model's decode latency."""
STUDY = StudySettings(seq=128, train=1, validation=16)
SEARCH = SearchSettings(steps=16, sequences=4, judged=4, rank_by=LOSSES)
Of = Callable[[str, float, int], Evaluator]
"""(strategy, share, seed) -> what it searches on."""
Results = dict[tuple[str, float, int], list[float]]
"""Losses by strategy, share and evaluations, one a seed."""


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--evaluations", type=int, nargs="+", help="default: 16 64 256, on the supernet 8 32")
    arguments.add_argument("--seeds", type=int, default=3, help="of the made-up part and of strategies")
    arguments.add_argument("--strength", type=float, default=0.25, help="by how much damages compound, a nat")
    arguments.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=list(STRATEGIES))
    arguments.add_argument("--supernet", action="store_true", help="real losses instead of made-up ones; one seed")
    arguments.add_argument("--measure", action="store_true", help=f"measure the damages again into {DAMAGE.name}")
    arguments.add_argument("--out", type=Path, default=Path("runs/strategies"), help="where real losses are kept")
    options = arguments.parse_args()
    if options.measure:
        save_damage(searcher(options.out))
        return
    of: Of
    if options.supernet:
        counts, seeds, log = options.evaluations or [8, 32], [0], options.out / "losses.jsonl"
        on = searcher(options.out)
        of = lambda name, share, seed: OnSupernet(on, f"{name} {share}", "strategies", name)  # noqa: E731
    else:
        counts, seeds, log = options.evaluations or [16, 64, 256], list(range(options.seeds)), None
        replays = [replay(seed, options.strength) for seed in seeds]
        of = lambda name, share, seed: replays[seed]  # noqa: E731
    results: Results = {}
    with track(len(seeds) * len(SHARES) * len(options.strategies), "strategies") as advance:
        for seed in seeds:
            for share in SHARES:
                for name in options.strategies:
                    for count, loss in reached(name, of(name, share, seed), share, counts, seed, log).items():
                        results.setdefault((name, share, count), []).append(loss)
                    advance(note=f"{name} {share:.0%}")
    show(results, options.strategies, counts)
    figures = {
        f"b{round(100 * share)}.{name}.e{count}": sum(losses) / len(losses)
        for (name, share, count), losses in results.items()
        if all(map(math.isfinite, losses))
    }
    publish("strategies", figures, options.json)


@cache
def fastest_seconds(space: Space) -> float:
    latency, workload = load_latency(DEVICE, "shipped"), Workload()
    fastest = fastest_uniform(space, latency, workload.decode)
    return predicted_cost(latency, workload, fastest, ["decode"])["decode"]


def reached(
    name: str, of: Evaluator, share: float, counts: Sequence[int], seed: int, log: Path | None
) -> dict[int, float]:
    """Loss after each number of evaluations; infinite where the strategy has nothing to offer."""
    strategy, within, out = STRATEGIES[name], {"decode": share * fastest_seconds(of.space)}, {}
    for planned in counts if strategy.paced else [max(counts)]:
        now = [planned] if strategy.paced else counts
        try:
            found = run_strategy(strategy(of, within, planned, seed), of, planned, log, name)
            out |= {count: found.after(count) for count in now}
        except HwfitError:
            out |= dict.fromkeys(now, math.inf)
    return out


def replay(seed: int, strength: float) -> Replay:
    """SmolLM2's space on the shipped CPU."""
    space, latency, workload = Space.default(SHAPE), load_latency(DEVICE, "shipped"), Workload()
    damage, order = load_damage(space)
    expected = ExpectedCosts(space, order, latency, workload)
    cost = partial(predicted_cost, latency, workload)
    return Replay(space, order, damage, cost, expected, compounding(SHAPE.blocks, seed, strength), known=KNOWN)


KNOWN: dict[Any, Mapping[str, float]] = {}
"""Costs are the same for every seed."""


def searcher(out: Path) -> Searcher:
    study = prepare(open_model("smollm2-135m"), STUDY, out / "checkpoints")
    return Searcher(study, load_latency(DEVICE, "shipped"), Workload(), SEARCH, out / "checkpoints")


def save_damage(of: Searcher, path: Path = DAMAGE) -> None:
    table = {name: getattr(of.damage.table, name).tolist() for name in Choices.__dataclass_fields__}
    body = {"order": list(of.order), "space": of.study.space.to_dict(), "table": table, "provenance": provenance()}
    write_text(path, json.dumps(body))
    Console().print(str(path))


def load_damage(space: Space, path: Path = DAMAGE) -> tuple[Damage, Sequence[int]]:
    raw = json.loads(path.read_text())
    if raw["space"] != space.to_dict():
        raise HwfitError(f"{path}: was measured in another space; measure it again with --measure")
    order = tuple(raw["order"])
    table = Choices(**{name: torch.tensor(values, dtype=torch.float64) for name, values in raw["table"].items()})
    rank = torch.tensor([order.index(block) for block in range(len(order))])
    return Damage(table, rank, space.depth), order


def show(results: Results, names: Sequence[str], counts: Sequence[int]) -> None:
    columns = [(share, count) for share in SHARES for count in counts]
    table = RichTable("nats a token", *(f"{share:.0%} after {count}" for share, count in columns))
    for name in names:
        cells = []
        for share, count in columns:
            losses = results[name, share, count]
            mean = sum(losses) / len(losses)
            spread = f" ({min(losses):.2f}–{max(losses):.2f})" if len(losses) > 1 else ""
            cells.append(f"{mean:.3f}{spread}" if math.isfinite(mean) else "–")
        table.add_row(name, *cells)
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
