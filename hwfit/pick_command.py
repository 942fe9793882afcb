"""`hwfit pick RUN --latency 6ms --memory 120MB`: one subnet of a finished run, and why that one."""

from __future__ import annotations

from collections.abc import Mapping
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from hwfit.progress import out_console
from hwfit.report import text
from hwfit.report.pick import Judged, Pick, pick_row
from hwfit.report.results import read_results
from hwfit.search.budget import Budget, format_cost
from hwfit.search.front import Interval


def pick(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run, with its results.json")],
    latency: Annotated[str | None, typer.Option(help="Of a token, such as 6ms")] = None,
    decode: Annotated[str | None, typer.Option(help="The same as --latency")] = None,
    tokens_per_s: Annotated[str | None, typer.Option(help="At least so many tokens a second")] = None,
    prefill: Annotated[str | None, typer.Option(help="Of a prompt, such as 120ms")] = None,
    ttft: Annotated[str | None, typer.Option(help="Time to the first token: the same as --prefill")] = None,
    memory: Annotated[str | None, typer.Option(help="Weights and KV cache, such as 120MB")] = None,
    disk: Annotated[str | None, typer.Option(help="What is stored, such as 100MB")] = None,
    params: Annotated[str | None, typer.Option(help="Weights, such as 100M, or '>=80M'")] = None,
    energy: Annotated[str | None, typer.Option(help="Of a token, such as 3mJ, where the run counted it")] = None,
    power: Annotated[str | None, typer.Option(help="While decoding, such as 300W, where the run counted it")] = None,
    budget: Annotated[list[str] | None, typer.Option(help="Any limit as `hwfit search` takes it; repeatable")] = None,
    by: Annotated[str, typer.Option(help="What is best: perplexity or accuracy")] = "perplexity",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object")] = False,
) -> Pick:
    """Say which model of RUN is best among those that keep every limit as measured, and why the others are not."""
    named = {"latency": latency, "decode": decode, "tokens_per_s": tokens_per_s, "prefill": prefill, "ttft": ttft}
    named |= {"memory": memory, "disk": disk, "params": params, "energy": energy, "power": power}
    limits = Budget.parse([*(_limit(name, value) for name, value in named.items() if value), *(budget or ())])
    found = pick_row(read_results(run), limits, by)
    if json:
        print(dumps(_plain(found, limits, run, by)))
    else:
        for line in _told(found, limits, run, by):
            out_console.print(line, markup=False, highlight=False, soft_wrap=True)
    return found


def _limit(name: str, value: str) -> str:
    return f"{name}{value}" if value.lstrip().startswith(("<=", ">=")) else f"{name}={value}"


def _told(found: Pick, budget: Budget, run: Path, by: str) -> list[str]:
    best, count = found.best, len(found.others) + 1
    lines = [f"{best.row.name}: {text.widths(best.row)}, {best.row.weight_bits:.1f} bits a weight"]
    lines += [f"  {_kept(metric, limit, best.costs[metric])}" for metric, limit in budget.limits]
    of = f"best of the {count} models that keep all limits" if count > 1 else "the only one that keeps all limits"
    lines.append(f"  {_quality(best, by)}: {of}")
    if found.level:
        lines.append(f"  not told apart from it: {', '.join(one.row.name for one in found.level)} (intervals overlap)")
    lines += [f"  {folder}" for folder in [run / "subnets" / best.row.name] if folder.is_dir()]
    lines += ["also within the limits:"] if found.others else []
    lines += [f"  {one.row.name}: {_quality(one, by)}" for one in found.others]
    lines += ["rejected:"] if found.rejected else []
    limits = budget.as_dict()
    lines += [
        f"  {one.row.name}: {', '.join(_broken(m, limits[m], one.costs[m]) for m in one.broken)}"
        for one in found.rejected
    ]
    return lines


def _kept(metric: str, limit: float, cost: Interval) -> str:
    share = cost.value / limit
    told = f"{_cost(metric, cost)} {_sign(metric)} {format_cost(metric, limit)}"
    told += f", {1 / share if metric == '1/params' else share:.0%} of it"
    return told + ("; its interval reaches beyond" if cost.high > limit else "")


def _broken(metric: str, limit: float, cost: Interval) -> str:
    sign = "<" if metric == "1/params" else ">"
    return f"{_cost(metric, cost)} {sign} {format_cost(metric, limit)}" + (
        " (its interval reaches below)" if cost.low <= limit else ""
    )


def _cost(metric: str, cost: Interval) -> str:
    spread = f" ({format_cost(metric, cost.low)}–{format_cost(metric, cost.high)})" if cost.low < cost.high else ""
    return f"{'params' if metric == '1/params' else metric} {format_cost(metric, cost.value)}{spread}"


def _sign(metric: str) -> str:
    return ">=" if metric == "1/params" else "<="


def _quality(one: Judged, by: str) -> str:
    q = one.quality
    if by == "accuracy":
        return f"accuracy {100 * (1 - q.value):.1f} % ({100 * (1 - q.high):.1f}–{100 * (1 - q.low):.1f})"
    return f"perplexity {text.significant(q.value)} ({text.significant(q.low)}–{text.significant(q.high)})"


def _plain(found: Pick, budget: Budget, run: Path, by: str) -> dict[str, Any]:
    """The pick as JSON values: seconds, bytes, weights (`1/params` is the reciprocal)."""
    limits = budget.as_dict()
    folder = run / "subnets" / found.best.row.name
    return {
        "picked": found.best.row.name,
        "folder": str(folder) if folder.is_dir() else None,
        "by": by,
        "limits": limits,
        "not_told_apart": [one.row.name for one in found.level],
        "models": [_row(one, limits, by) for one in (found.best, *found.others, *found.rejected)],
    }


def _row(one: Judged, limits: Mapping[str, float], by: str) -> dict[str, Any]:
    costs = {metric: {**cost._asdict(), "limit": limits.get(metric)} for metric, cost in one.costs.items()}
    quality = one.quality
    if by == "accuracy":
        quality = Interval(1 - quality.value, 1 - quality.high, 1 - quality.low)
    return {
        "name": one.row.name,
        "fits": not one.broken,
        "broken": list(one.broken),
        "costs": costs,
        by: quality._asdict(),
    }
