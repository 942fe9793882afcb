"""Bars: where the time goes, as plain HTML bars that shrink with the page and print well."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from html import escape

from hwfit.report import text
from hwfit.report.results import Results
from hwfit.workload import PHASES, PhaseName


@dataclass(frozen=True)
class Family:
    """Kinds of layers that share a colour; lightness and hatching keep the families apart in grey."""

    title: str
    kinds: tuple[str, ...]
    fill: str


FAMILIES = (
    Family("q k v o projections", ("q_proj", "k_proj", "v_proj", "o_proj"), "#11529a"),
    Family("MLP projections", ("gate_proj", "up_proj", "down_proj"), "#93c0e0"),
    Family("LM head", ("lm_head",), "repeating-linear-gradient(45deg,#d55e00 0 4px,#f3b48c 4px 8px)"),
    Family("attention", ("attention",), "repeating-linear-gradient(0deg,#222 0 2px,#aaa 2px 4px)"),
    Family(
        "norms, SwiGLU, embedding",
        ("norm", "swiglu", "embed"),
        "repeating-linear-gradient(90deg,#fff 0 3px,#999 3px 4px)",
    ),
)
OTHER = Family("overhead and other", (), "repeating-linear-gradient(-45deg,#fff 0 3px,#999 3px 5px)")


def layer_bars(results: Results) -> str:
    """For each phase a full-width bar a row: the shares of its predicted time; exact times in a table to unfold."""
    if not results.layers:
        return ""
    key = " ".join(
        f'<span class="item"><span class="swatch" style="background:{f.fill}"></span>{f.title}</span>'
        for f in (*FAMILIES, OTHER)
    )
    halves = "".join(f"<div><h3>{phase}</h3>{_phase(results, phase)}</div>" for phase in PHASES)
    return f'<p class="key">{key}</p><div class="halves">{halves}</div>{_exact(results)}'


def stage_bars(results: Results) -> str:
    """A bar a stage of the run, and the total."""
    if not results.stages:
        return ""
    longest = max(stage.seconds for stage in results.stages) or 1.0
    lines = "".join(
        f"<tr><th>{escape(s.name)}</th><td><div style='width:{100 * s.seconds / longest:.1f}%'></div></td>"
        f"<td>{text.duration(s.seconds)}</td></tr>"
        for s in results.stages
    )
    total = text.duration(sum(s.seconds for s in results.stages))
    return f'<table class="stages">{lines}<tr><th>total</th><td></td><td>{total}</td></tr></table>'


def _times(results: Results, phase: PhaseName) -> dict[str, dict[str, float]]:
    """row -> kind -> seconds."""
    times: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for layer in results.layers:
        if layer.phase == phase:
            times[layer.row][layer.kind] += layer.seconds
    return times


def _phase(results: Results, phase: PhaseName) -> str:
    times = _times(results, phase)
    return "".join(_bar(row.name, times[row.name]) for row in results.rows if row.name in times)


def _bar(name: str, times: dict[str, float]) -> str:
    known = {kind for family in FAMILIES for kind in family.kinds}
    sums = [(f, sum(times.get(kind, 0.0) for kind in f.kinds)) for f in FAMILIES]
    sums.append((OTHER, sum(seconds for kind, seconds in times.items() if kind not in known)))
    total = sum(times.values())
    shown = sum(max(0.0, seconds) for _, seconds in sums) or 1.0
    parts = "".join(
        f'<span style="width:{100 * seconds / shown:.2f}%;background:{family.fill}" '
        f'title="{family.title}: {text.ms(seconds)} ms, {text.percent(seconds / shown)}"></span>'
        for family, seconds in sums
        if seconds > 0
    )
    return f'<div class="bar"><div><b>{escape(name)}</b><i>{text.ms(total)} ms</i></div><p>{parts}</p></div>'


def _exact(results: Results) -> str:
    kinds = list(dict.fromkeys(layer.kind for layer in results.layers))
    head = "".join(f"<th>{escape(kind)}</th>" for kind in kinds)
    lines = []
    for phase in PHASES:
        for name, times in _times(results, phase).items():
            cells = "".join(f"<td>{text.ms(times[kind]) if kind in times else '–'}</td>" for kind in kinds)
            lines.append(f"<tr><th>{escape(name)}</th><td>{phase}</td>{cells}</tr>")
    return (
        "<details><summary>Milliseconds of every kind of layer</summary><div class='scroll'><table class='rows'>"
        f"<tr><th>model</th><th>phase</th>{head}</tr>{''.join(lines)}</table></div></details>"
    )
