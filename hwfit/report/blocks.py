"""Blocks: what a subnet keeps, block by block: the width of its MLP, the bits of each linear, and dropped blocks."""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import Any

import plotly.graph_objects as go

from hwfit.precision import Precision
from hwfit.report import text
from hwfit.report.figures import AXIS, new_figure
from hwfit.report.results import Results, Row
from hwfit.subnet import LINEARS, Subnet

# Darker is more bits, so that the picture reads the same in grey; the digits say it too.
SHADES = {2: "#e3eef8", 3: "#c3dbee", 4: "#93c0e0", 8: "#3d85bf", 16: "#11529a", 32: "#0a2a5a"}
HEIGHT = 262
WIDTHS, BITS = (0.8, 1.0), (0.0, 0.75)  # shares of the height
MLP = "#666666"


def searched(results: Results) -> list[Row]:
    """Rows whose blocks differ; original and uniform rows look the same all over."""
    return [row for row in results.rows if row.kind in ("joint", "sequential")]


def block_map(results: Results, row: Row) -> go.Figure:
    """Above, a bar a block as high as its MLP is wide; below, a cell a linear with its weight bits.

    Digits of linears with one scale a channel are underlined; dropped blocks are hatched.
    """
    s, whole = row.subnet, whole_of(results)
    figure = new_figure(HEIGHT, "block of the original", "")
    margin = {"l": 46, "r": 4, "t": 6, "b": 40}
    figure.update_layout(barmode="overlay", bargap=0, margin=margin, hoverdistance=8)
    figure.update_xaxes(
        range=[-0.5, results.blocks - 0.5],
        dtick=5 if results.blocks <= 40 else 10 if results.blocks <= 100 else 20,
        tick0=0,
        showgrid=False,
        anchor="y2",
    )
    figure.update_yaxes(
        domain=BITS, range=[len(LINEARS) - 0.4, -0.6], tickmode="array", showgrid=False, showline=False, ticks="",
        tickvals=list(range(len(LINEARS))), ticktext=[name.removesuffix("_proj") for name in LINEARS],
    )  # fmt: skip
    figure.update_layout(
        xaxis={"anchor": "y"},
        yaxis2={
            **{**AXIS, "domain": WIDTHS, "range": [0, max(whole.mlp) * 1.08], "tickvals": [0, max(whole.mlp)]},
            **{"showgrid": False, "tickfont": {"size": 11}, "showline": False},
        },
    )
    figure.add_bar(
        x=list(s.blocks),
        y=list(s.mlp),
        width=0.9,
        yaxis="y2",
        marker={"color": MLP},
        name="width of the MLP (above)",
        hovertemplate="block %{x}: MLP %{y} wide<extra></extra>",
    )
    for bits in sorted({p.weight_bits for line in s.precision for p in line}, reverse=True):
        _bits(figure, s, bits)
    figure.add_scatter(**_digits(s), mode="text", hoverinfo="skip", showlegend=False, meta={"role": "digits"})
    gone = [block for block in range(results.blocks) if block not in s.blocks]
    for axis, base, height in (("y", -0.5, len(LINEARS)), ("y2", 0, max(whole.mlp))):
        figure.add_bar(
            x=gone,
            y=[height] * len(gone),
            base=base,
            width=0.96,
            yaxis=axis,
            marker={"color": "white", "pattern": {"shape": "/", "fgcolor": "#9a9a9a", "size": 6, "solidity": 0.2}},
            name="dropped block",
            showlegend=axis == "y" and bool(gone),
            hovertemplate="block %{x}: dropped<extra></extra>",
        )
    return figure


def whole_of(results: Results) -> Subnet:
    """The original, or the largest row of a run without it."""
    return (results.original or max(results.rows, key=lambda row: row.subnet.params)).subnet


def kept_words(results: Results, row: Row) -> str:
    """In words: what is kept of the original, and how many linears have which precision."""
    s, whole = row.subnet, whole_of(results)
    low, high = min(s.mlp), max(s.mlp)
    mlp = f"{low}" if low == high else f"{low}–{high}"
    widths = (
        f"{len(s.blocks)} of {results.blocks} blocks, {s.hidden} of {whole.hidden} wide, {s.heads} of {whole.heads} "
        f"heads of {s.head_size}, MLP {mlp} of {max(whole.mlp)}"
    )
    counts = Counter(str(p) for line in s.precision for p in line).most_common()
    linears = ", ".join(f"{n} linears {p}" if i == 0 else f"{n} {p}" for i, (p, n) in enumerate(counts))
    return f"{widths}; {linears}; LM head {s.lm_head}, embedding {s.embed}; {text.mb(row.size_bytes)} MB"


def key(results: Results) -> str:
    """The key of all maps, as HTML."""
    used = sorted({p.weight_bits for row in searched(results) for line in row.subnet.precision for p in line})
    swatches = "".join(
        f'<span class="swatch" style="background:{shade(bits)};color:{_ink(bits)}">{bits}</span>' for bits in used
    )
    items = (
        f"weight bits {swatches}",
        f'<span class="swatch" style="background:{shade(8)};color:{_ink(8)}"><u>8</u></span>one scale a channel',
        '<span class="swatch gone"></span>dropped block',
        f'<span class="swatch" style="background:{MLP}"></span>width of the MLP, against the original’s',
    )
    return '<p class="key">' + " ".join(f'<span class="item">{item}</span>' for item in items) + "</p>"


def shade(bits: int) -> str:
    """The colour of the nearest precision that has one and is no wider."""
    return SHADES[max((known for known in SHADES if known <= bits), default=2)]


def _ink(bits: int) -> str:
    return "#ffffff" if bits >= 8 else "#111111"


def _per_channel(p: Precision) -> bool:
    return p.group is None and not p.is_float


def _bits(figure: go.Figure, s: Subnet, bits: int) -> None:
    """The cells of all linears with so many weight bits."""
    cells = [
        (block, j, f"block {block} {LINEARS[j]}: {p}" + (", one scale a channel" if _per_channel(p) else ""))
        for block, line in zip(s.blocks, s.precision, strict=True)
        for j, p in enumerate(line)
        if p.weight_bits == bits
    ]
    figure.add_bar(
        x=[block for block, _, _ in cells],
        y=[0.92] * len(cells),
        base=[j - 0.46 for _, j, _ in cells],
        width=0.92,
        hovertext=[escape(words) for *_, words in cells],
        hovertemplate="%{hovertext}<extra></extra>",
        marker={"color": shade(bits)},
        name=f"{bits} bits",
    )


def _digits(s: Subnet) -> dict[str, Any]:
    cells = [(b, j, p) for b, line in zip(s.blocks, s.precision, strict=True) for j, p in enumerate(line)]
    return {
        "x": [block for block, _, _ in cells],
        "y": [j for _, j, _ in cells],
        "text": [f"<u>{p.weight_bits}</u>" if _per_channel(p) else str(p.weight_bits) for *_, p in cells],
        "textfont": {"size": 10, "color": [_ink(p.weight_bits) for *_, p in cells]},
    }
