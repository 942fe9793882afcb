"""`hwfit validate ORIGINAL COMPRESSED`: what accuracy averages hide, against limits, for use in CI."""

from __future__ import annotations

from collections.abc import Mapping
from json import dumps
from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table as RichTable

from hwfit.errors import nearest, raise_all
from hwfit.evaluate.benchmarks import BENCHMARKS, PAPER, parse_shots, parse_tasks
from hwfit.evaluate.divergence import Divergence
from hwfit.evaluate.drift import PARTS, UNPROVEN, Drift, Limits, Probe, find_drift
from hwfit.evaluate.target import find_target
from hwfit.files import write_text
from hwfit.progress import out_console

ALL_TASKS = ",".join(PAPER)
ALL_PARTS = ",".join(PARTS)


def validate(
    original: str,
    compressed: str,
    tasks: str = ALL_TASKS,
    shots: str = "0",
    documents: int = 50,
    rows: int = 8,
    context: int = 1024,
    parts: str = ALL_PARTS,
    max_flips: str = "5%",
    max_kl: float = 0.1,
    max_kl_p99: float = 1.0,
    max_perplexity: str = "10%",
    max_refusals: str = "10%",
    threads: int = 2,
    device: str = "cpu",
    data: str = "pack",
    json: bool = False,
    out: Path | None = None,
) -> Drift:
    """Compare COMPRESSED with the ORIGINAL it was made from: answer flips, KL divergence, perplexity by domain,
    language and position, refusals.

    Both are deployed folders, known models or Hugging Face directories with one tokenizer. `Drift.failures` lists the
    limits that are broken. `out` is a .json file for all of it. Raises `HwfitError` for bad options, all at once.
    """
    problems = [
        f"--{name} {value} must be at least {least}"
        for name, value, least in (("documents", documents, 1), ("rows", rows, 1), ("context", context, 256))
        if value < least
    ]
    wanted = tuple(dict.fromkeys(p.strip() for p in parts.split(",") if p.strip()))
    problems += [f"--parts: '{p}' is unknown; {nearest(p, PARTS)}" for p in wanted if p not in PARTS]
    problems += [] if wanted else [f"--parts '{parts}' names none; allowed: {', '.join(PARTS)}"]
    if out is not None and out.suffix != ".json":
        problems.append(f"--out {out}: only .json is written")
    shares = {}
    for flag, value in (("flips", max_flips), ("perplexity", max_perplexity), ("refusals", max_refusals)):
        try:
            shares[flag] = parse_share(value)
        except ValueError:
            problems.append(f"--max-{flag} '{value}'; allowed: a share such as 5% or 0.05")
    raise_all(problems)
    names = parse_tasks(tasks)
    limits = Limits(shares["flips"], max_kl, max_kl_p99, shares["perplexity"], shares["refusals"])
    limits.check()
    probe = Probe(parse_shots(shots, names), documents, rows, context=context, parts=wanted, data=data)
    a, b = (find_target(name, device, threads) for name in (original, compressed))
    drift = find_drift(a, b, probe, limits)
    if out is not None:
        write_text(out, dumps(drift.to_dict(), indent=1))
    if json:
        print(dumps(drift.to_dict()))
    else:
        _print(drift)
    return drift


def parse_share(text: str) -> float:
    """`5%` or `0.05` -> 0.05. Raises `ValueError` for anything else."""
    share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 <= share < float("inf"):
        raise ValueError(text)
    return share


def _print(drift: Drift) -> None:
    if drift.flips:
        columns = ("", "documents", "changed %", "lost", "won", "wrong to wrong", "accuracy before", "after")
        table = RichTable(*columns, title="answers", box=SIMPLE)
        for name, f in drift.flips.items():
            label = f"{BENCHMARKS[name].title}, {f.shots}-shot {f.metric}"
            counts = (str(f.lost), str(f.won), str(f.swapped), f"{f.before:.3f}{' ≈' if f.at_floor else ''}")
            table.add_row(label, str(f.n), f"{100 * f.changed:.1f}", *counts, f"{f.after:.3f}")
        out_console.print(table)
    for title, group in (("domains", drift.domains), ("languages", drift.languages), ("long context", drift.long)):
        if group:
            out_console.print(_predictions(title, group))
    if r := drift.refusals:
        out_console.print(
            f"refusals: {r.unsafe_before} -> {r.unsafe_after} of {r.unsafe} unsafe prompts, {r.benign_before} -> "
            f"{r.benign_after} of {r.benign} harmless ones; {len(r.lost)} lost, {len(r.new)} new",
            soft_wrap=True,
        )
        if not r.unsafe_before:
            out_console.print("  the original declines none of them, so this part says nothing", soft_wrap=True)
    for failure in drift.failures:
        out_console.print(f"[red]drift[/red]: {failure}", soft_wrap=True)
    out_console.print("[bold]drift[/bold]" if drift.failures else "[bold]within all limits[/bold]")
    out_console.print("What this does not prove:")
    for line in UNPROVEN:
        out_console.print(f"  {line}", soft_wrap=True)


def _predictions(title: str, group: Mapping[str, Divergence]) -> RichTable:
    columns = ("", "tokens", "perplexity before", "after", "change %", "mean KL", "KL p99", "same top token %")
    table = RichTable(*columns, title=title, box=SIMPLE)
    for name, d in group.items():
        figures = (f"{d.before:.4g}", f"{d.after:.4g}", f"{100 * d.increase:+.1f}", f"{d.kl:.3g}", f"{d.kl_p99:.3g}")
        table.add_row(name, str(d.tokens), *figures, f"{100 * d.same:.1f}")
    return table
