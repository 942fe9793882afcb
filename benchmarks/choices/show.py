"""Show: what the tables say, what was picked, what came out, and each choice under the others' budgets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from statistics import mean

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.choices.rule import OUTCOMES, Prediction, Told, by_kind, observed
from benchmarks.choices.search import EXACT, Bench, Crossed, Picks
from benchmarks.choices.setting import CLASSES, KINDS, Setting
from hwfit.search.discretise import Picked
from hwfit.space import AXES

WIDE = Console(width=200)
Seen = Mapping[tuple[str, str, int], Sequence[tuple[Prediction, float, str]]]


def tables(settings: Sequence[Setting], told: Mapping[str, Told]) -> None:
    """Times relative to full precision, and the two quantities of the rule."""
    out = Table("setting", "full, ms", *KINDS, "prices", title=f"time over full precision: {'/'.join([*CLASSES][1:])}")
    for setting in settings:
        seconds = setting.by_kind()
        relative = ("/".join(f"{r:.2f}" for r in row) for row in seconds[:, 1:] / seconds[:, :1])
        sources = Counter(price.source for price in setting.prices)
        told_by = ", ".join(f"{count} {source}" for source, count in sources.items())
        out.add_row(setting.name, f"{1e3 * seconds[:, 0].sum():.3f}", *relative, f"{told_by}, {_spread(setting)}")
    WIDE.print(out)
    out = Table(
        "setting",
        "fastest, ms",
        *(f"{name} takes" for name in CLASSES),
        *(f"{axis} saves" for axis in AXES),
        title="what the rule reads: time above the fastest mix, and saved by an axis' smallest choice (part of all)",
    )
    for setting in settings:
        mine = told[setting.name]
        saved = (f"{mine.saved[axis]:.0%} ({mine.relief[axis]:.2f})" for axis in AXES)
        regret = (f"{value:+.0%}" for value in mine.regret.values())
        out.add_row(setting.name, f"{1e3 * setting.fastest:.3f}", *regret, *saved)
    WIDE.print(out)


def _spread(setting: Setting) -> str:
    return f"±{mean(price.spread for price in setting.prices):.0%}"


def predicted(expected: Mapping[str, Sequence[Prediction]]) -> None:
    WIDE.print("predicted from the tables, before any search:")
    for kind, found in expected.items():
        for one in found:
            WIDE.print(f"  {kind}: {one}", highlight=False)


def picked(benches: Mapping[str, Bench], picks: Picks, shares: Sequence[float]) -> None:
    """The exact pick, and under it each strategy's mean over the seeds with its range."""
    shown = [f"% {name}" for name in CLASSES]
    out = Table("setting", "budget", "method", *shown, "blocks", "hidden", "MLP", "KV heads", "head size", "nats")
    for (name, bench), share in product(benches.items(), shares):
        space, order = bench.setting.space, bench.order
        found: dict[str, list[Picked]] = {}
        for (setting, budget, method, _), pick in picks.items():
            if (setting, budget) == (name, share) and pick is not None:
                found.setdefault(method, []).append(pick)
        if not found:
            out.add_row(name, f"{share:.0%}", "nothing meets it")
        for method, there in found.items():
            seen = [observed(p, space, order) for p in there]
            subnets = [p.subnet(space, order) for p in there]
            columns = [*([100 * o[f"share {c}"] for o in seen] for c in CLASSES), [len(s.blocks) for s in subnets]]
            columns += [[s.hidden for s in subnets], [s.mlp[0] for s in subnets], [s.kv_heads for s in subnets]]
            columns += [[s.head_size for s in subnets]]
            nats = _range([bench.harm(p) for p in there], 3)
            out.add_row(name, f"{share:.0%}", method, *map(_range, columns), nats)
    WIDE.print(out)


def _range(values: Sequence[float], digits: int = 0) -> str:
    text = f"{mean(values):.{digits}f}"
    low, high = (f"{v:.{digits}f}" for v in (min(values), max(values)))
    return text if low == high else f"{text} ({low}–{high})"


def kinds(benches: Mapping[str, Bench], picks: Picks, shares: Sequence[float]) -> None:
    """By kind of linear, the exact pick's per cent of weights at each precision."""
    out = Table("setting", "budget", *KINDS, title=f"exact picks, % of weights at {' / '.join(CLASSES)}")
    for name, bench in benches.items():
        for share in shares:
            if (pick := picks[name, share, EXACT, 0]) is None:
                continue
            weights = by_kind(pick, bench.setting.space, bench.order)
            parts = 100 * weights / weights.sum(1, keepdims=True)
            out.add_row(name, f"{share:.0%}", *("/".join(f"{v:.0f}" for v in row) for row in np.round(parts)))
    WIDE.print(out)


def outcomes(seen: Seen, shares: Sequence[float]) -> None:
    """Counts of all budgets, then of each."""
    names = " / ".join(OUTCOMES)
    out = Table("pairs differ in", "method", "seed", "predicted", names, *(f"{s:.0%}" for s in shares))
    for (kind, method, seed), found in seen.items():
        cells = []
        for wanted in (None, *shares):
            counts = Counter(outcome for _, share, outcome in found if wanted in (None, share))
            cells.append(" / ".join(str(counts[o]) for o in OUTCOMES))
        out.add_row(kind, method, "–" if method == EXACT else str(seed), str(len(found)), *cells)
    WIDE.print(out)
    WIDE.print("not borne out in the exact picks, by budget:")
    failed: dict[tuple[str, str], list[float]] = {}
    for (_, method, _), found in seen.items():
        for one, share, outcome in found if method == EXACT else ():
            if outcome != OUTCOMES[0]:
                failed.setdefault((outcome, str(one)), []).append(share)
    for (outcome, one), at in sorted(failed.items()):
        WIDE.print(f"  {outcome}: {one} ({', '.join(f'{share:.0%}' for share in at)})", highlight=False)


def crossed(table: Mapping[tuple[str, str, float], Crossed], names: Sequence[str], shares: Sequence[float]) -> None:
    out = Table(
        "choice of, under the budget of",
        *names,
        title="over the budget (nats that the own pick has more); nats lost by choosing with the wrong table",
    )
    for share in shares:
        for x in names:
            cells = []
            for y in names:
                one = table.get((x, y, share))
                cells.append("–" if one is None else _cell(one))
            out.add_row(f"{x} at {share:.0%}", *cells)
    WIDE.print(out)


def _cell(one: Crossed) -> str:
    regret = f"{one.regret:.2f}" if math.isfinite(one.regret) else "none fits"
    return f"{one.over:+.0%} ({one.extra:+.2f}); {regret}"
