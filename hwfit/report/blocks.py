"""Blocks: which blocks a subnet keeps and the bits of each of its linears, as a small HTML picture a row."""

from __future__ import annotations

from html import escape

from hwfit.precision import Precision
from hwfit.report import text
from hwfit.report.results import Results, Row
from hwfit.subnet import LINEARS

# Darker is more bits, so that the picture reads the same in grey.
SHADES = {2: "#e3eef8", 3: "#c3dbee", 4: "#93c0e0", 8: "#3d85bf", 16: "#11529a", 32: "#0a2a5a"}


def block_maps(results: Results) -> str:
    """A key and one picture for each row that was searched for (original and uniform rows look the same all over)."""
    rows = [row for row in results.rows if row.kind in ("joint", "sequential")]
    if not rows:
        return ""
    used = sorted({p.weight_bits for row in rows for line in row.subnet.precision for p in line})
    bits = "".join(f'<span class="swatch" style="{_paint(bits)}">{bits}</span>' for bits in used)
    channel = f'<span class="swatch channel" style="{_paint(8)}"></span>'
    items = (f"weight bits {bits}", '<span class="swatch gone"></span>dropped block', f"{channel}one scale a channel")
    key = '<p class="key">' + " ".join(f'<span class="item">{item}</span>' for item in items) + "</p>"
    return key + f'<div class="maps">{"".join(_map(row, results.blocks) for row in rows)}</div>'


def _map(row: Row, blocks: int) -> str:
    s = row.subnet
    at = {block: i for i, block in enumerate(s.blocks)}
    lines = [
        f"<tr><th>{name.removesuffix('_proj')}</th>"
        + "".join(_cell(s.precision[at[b]][j], b, name) if b in at else _gone(b) for b in range(blocks))
        + "</tr>"
        for j, name in enumerate(LINEARS)
    ]
    if len(set(s.mlp)) > 1:
        cells = (_width(s.mlp[at[b]], max(s.mlp), b) if b in at else _gone(b) for b in range(blocks))
        lines.append(f"<tr><th>width</th>{''.join(cells)}</tr>")
    heads = "".join(f"<td>{b if b % 5 == 0 else ''}</td>" for b in range(blocks))
    about = f"{text.widths(row)}; LM head {s.lm_head}, embedding {s.embed}"
    return (
        f'<figure class="map"><figcaption><b>{escape(row.name)}</b> {escape(about)}</figcaption>'
        f'<table><tr class="index"><th>block</th>{heads}</tr>{"".join(lines)}</table></figure>'
    )


def _paint(bits: int) -> str:
    return f"background-color:{SHADES.get(bits, '#888')};color:{'#fff' if bits >= 8 else '#111'}"


def _cell(p: Precision, block: int, name: str) -> str:
    channel = ' class="channel"' if p.group is None and not p.is_float else ""
    return f'<td{channel} style="{_paint(p.weight_bits)}" title="block {block} {name}: {p}"><i>{p.weight_bits}</i></td>'


def _gone(block: int) -> str:
    return f'<td class="gone" title="block {block}: dropped"></td>'


def _width(mlp: int, widest: int, block: int) -> str:
    share = f"{100 * mlp / widest:.0f}%"
    fill = f"background:linear-gradient(to top,#777 {share},#fff {share})"
    return f'<td style="{fill}" title="block {block}: MLP {mlp} wide"></td>'
