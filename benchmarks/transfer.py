"""Does a speed-up of one GPU hold on another? Published tables: A100 -> H100, H200, L40S after 0 to 200 measurements.

With the tables of the other two devices, and without (`.alone.`). Of a GPU with tables under two library versions the
newer is taken, and the older helps nobody.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.common import parser, publish
from benchmarks.latency_models import DEVICES
from hwfit.latency_models.transfer import Agreement, Pair, Source, agreement, sign
from hwfit.latency_models.transfer_curve import Transfer, curve
from hwfit.latency_models.transfer_subnets import LLAMA_8B
from hwfit.lut_store.aiconfigurator import Imported, import_aiconfigurator
from hwfit.lut_store.facts import facts_of
from hwfit.lut_store.table import Table
from hwfit.transfer_command import SHOTS

FIELDS = ("regret", "speedup_rank", "latency_rank", "same_fastest")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--source", default="a100", choices=list(DEVICES))
    arguments.add_argument("--target", action="append", choices=list(DEVICES), help="default: all the others")
    arguments.add_argument("--shots", type=int, action="append", help=f"default: {SHOTS}")
    options = arguments.parse_args()
    targets = options.target or [name for name in DEVICES if name != options.source]
    figures: dict[str, float] = {}
    out = RichTable(
        "device", "helped", "shots", "1 row", "2-32 rows", "33 and more", "signs agree", "subnets", "covered"
    )
    with tempfile.TemporaryDirectory() as folder:
        table = Table(Path(folder))
        sources = {name: [_source(table, one.device) for one in _imported(name, table)] for name in DEVICES}
        newest = {name: versions[-1] for name, versions in sources.items()}
        for target in targets:
            for helped in (True, False):
                rest = tuple(newest[n] for n in DEVICES if n not in (options.source, target)) if helped else ()
                found = curve(newest[options.source], newest[target], rest, options.shots or SHOTS, LLAMA_8B)
                _note(figures, out, target, helped, found)
        for name, versions in sources.items():
            if len(versions) > 1:
                _note_repeat(figures, out, name, versions)
    Console(width=120).print(out)
    publish("transfer", figures, options.json)


def _imported(name: str, table: Table) -> list[Imported]:
    return import_aiconfigurator(DEVICES[name], table)


def _source(table: Table, key: str) -> Source:
    return Source(key, table.read(key), facts_of(table, key))


def _note(figures: dict[str, float], out: RichTable, target: str, helped: bool, found: Transfer) -> None:
    for point in found.points:
        prefix = f"{target}.{'' if helped else 'alone.'}shots{point.shots}"
        figures |= _figures(prefix, point.regimes)
        figures |= {f"{prefix}.subnets_m{m}": regret for m, regret in point.subnets.items()}
        if point.shots:
            figures |= {f"{prefix}.half_width": point.half_width, f"{prefix}.coverage": point.coverage}
        fronts = " / ".join(f"{regret:.1%}" for regret in point.subnets.values())
        covered = f"{point.coverage:.1%}" if point.shots else ""
        out.add_row(target, str(helped), str(point.shots), *_regrets(point.regimes), fronts, covered)


def _note_repeat(figures: dict[str, float], out: RichTable, name: str, versions: list[Source]) -> None:
    """The floor: one device judged with its own table under another version of the library."""
    pair = Pair.of(versions[0], versions[-1])
    regimes = agreement(pair, pair.a)
    figures |= _figures(f"{name}.repeat", regimes)
    out.add_row(name, "itself", "–", *_regrets(regimes), "", "")


def _figures(prefix: str, regimes: list[Agreement]) -> dict[str, float]:
    named = {f"{prefix}.{field}_{one.regime}": float(getattr(one, field)) for one in regimes for field in FIELDS}
    return named | {f"{prefix}.sign": sign(regimes), f"{prefix}.regret": float(np.max([r.regret for r in regimes]))}


def _regrets(regimes: list[Agreement]) -> list[str]:
    return [*(f"{one.regret:.1%}" for one in regimes), f"{sign(regimes):.1%}"]


if __name__ == "__main__":
    main()
