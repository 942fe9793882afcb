"""`hwfit transfer A B`: does what A's table says of speed-ups hold on B, and after how many measurements there?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.box import SIMPLE
from rich.table import Table as RichTable

from hwfit.errors import HwfitError, raise_all
from hwfit.files import replacing
from hwfit.latency_models.transfer import Source, sign
from hwfit.latency_models.transfer_curve import Transfer, curve
from hwfit.latency_models.transfer_subnets import LLAMA_8B
from hwfit.lut_store.facts import facts_of
from hwfit.lut_store.resolve import resolve
from hwfit.lut_store.shipped import open_table
from hwfit.lut_store.table import Table
from hwfit.models.llama import load_shape
from hwfit.progress import out_console

SHOTS = (0, 10, 50, 200)


def transfer(
    a: str,
    b: str,
    shots: Sequence[int] = (),
    tables: Path | None = None,
    alone: bool = False,
    config: Path | None = None,
    out: Path | None = None,
) -> Transfer:
    """Judge decisions made for B with the table of A and `shots` cells of B (default `SHOTS`); the others score them.

    Other devices of the table help, unless `alone`, and are named. `config` is the model whose subnets are compared
    (default: Llama-3.1-8B's sizes); `out` a .png for the curve. Raises `HwfitError` for unknown devices, or two that
    share too few cells.
    """
    problems = [f"--shots {count} must be 0 or more" for count in shots if count < 0]
    if out is not None and out.suffix != ".png":
        problems.append(f"--out {out}: only .png is written")
    raise_all(problems)
    table = open_table(tables)
    first, second = (_source(table, resolve(table, name, flag)) for flag, name in (("A", a), ("B", b)))
    if first.device == second.device:
        raise HwfitError(f"A and B are both {first.device}; name two devices of {', '.join(table.devices())}")
    rest = () if alone else tuple(k for k in table.devices() if k not in (first.device, second.device))
    helpers = tuple(source for key in rest if (source := _maybe(table, key)))
    shape = load_shape(config) if config else LLAMA_8B
    found = curve(first, second, helpers, sorted(set(shots or SHOTS)), shape)
    out_console.print(_table(found))
    sure = ", ".join(f"{np.exp(p.half_width):.2f} after {p.shots}" for p in found.points if p.shots)
    out_console.print(f"9 in 10 predictions of a layer on B are within a factor of: {sure}", soft_wrap=True)
    helped = ", ".join(found.others) or "no other device"
    out_console.print(
        f"helped by the tables of {helped}; B's own values come from the measurements alone", soft_wrap=True
    )
    out_console.print(f"{found.a} -> {found.b}: [bold]{found.verdict}[/bold]", soft_wrap=True)
    if out is not None:
        from hwfit.report.transfer_plot import transfer_png

        with replacing(out) as temporary:
            temporary.write_bytes(transfer_png(found))
        out_console.print(f"{out} written")
    return found


def _source(table: Table, key: str) -> Source:
    return Source(key, table.read(key), facts_of(table, key))


def _maybe(table: Table, key: str) -> Source | None:
    """A device that may help; one without facts or anchors cannot."""
    try:
        return _source(table, key)
    except HwfitError:
        return None


def _table(found: Transfer) -> RichTable:
    columns = ("shots", "rows", "regret %", "p90 %", "signs %", "speed-up rank", "latency rank", "same fastest %")
    table = RichTable(*columns, title=f"{found.a} -> {found.b}", box=SIMPLE)
    for point in found.points:
        for i, one in enumerate(point.regimes):
            low, high = (f([draw[i].regret for draw in point.draws]) for f in (min, max))
            spread = f" ({_percent(low)}–{_percent(high)})" if len(point.draws) > 1 else ""
            table.add_row(
                *(str(point.shots), one.regime, _percent(one.regret) + spread, _percent(one.regret_p90)),
                *(_percent(one.sign), f"{one.speedup_rank:.3f}", f"{one.latency_rank:.3f}", _percent(one.same_fastest)),
            )
        for m, regret in point.subnets.items():
            table.add_row(str(point.shots), f"net, m={m}", _percent(regret), *[""] * 5)
        table.add_row(str(point.shots), "all", "", "", _percent(sign(point.regimes)), *[""] * 3, end_section=True)
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
