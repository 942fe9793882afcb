"""Parts: pieces of HTML that sections of the page share."""

from __future__ import annotations

import json
from html import escape
from typing import Any

import plotly.graph_objects as go

from hwfit.report.results import RowKind
from hwfit.report.text import LOOKS

_STAR = "8,0.5 9.9,5.8 15.5,5.8 11,9.2 12.7,14.6 8,11.3 3.3,14.6 5,9.2 0.5,5.8 6.1,5.8"
_SHAPES = {
    "star": f'<polygon points="{_STAR}" fill="{{0}}"/>',
    "square": '<rect x="3" y="3" width="10" height="10" fill="{0}"/>',
    "triangle-up": '<polygon points="8,2 14,13 2,13" fill="{0}"/>',
    "circle": '<circle cx="8" cy="8" r="5.5" fill="{0}"/>',
}


def plot(name: str, title: str, figure: go.Figure, row: str | None = None, head: str | None = None) -> str:
    """A figure with its buttons and its data, which `page.js` draws once the page's widths are known.

    `title` is what it is called aloud and on saved pictures; `head` (HTML) is what stands above it, by default the
    title. A figure of one model, `row`, is filtered and selected with it.
    """
    save = "".join(
        f'<button type="button" data-save="{format}" aria-label="Save “{escape(title)}” as {format.upper()}">'
        f"{format.upper()}</button>"
        for format in ("png", "svg")
    )
    above = f"<h3>{escape(title)}</h3>" if head is None else head
    of = "" if row is None else f' data-row="{escape(row)}"'
    height = figure.layout.height  # pyright: ignore[reportAttributeAccessIssue]
    return (
        f'<figure class="fig"{of}><div class="head"><div>{above}</div><span class="save">{save}</span></div>'
        f'<div class="plot" id="{name}" style="min-height:{height}px" role="group" aria-label="{escape(title)}">'
        f"{data(json.loads(str(figure.to_json())))}</div></figure>"
    )


def data(value: Any, name: str = "") -> str:
    """A JSON block that no text inside can end."""
    identity = f' id="{name}"' if name else ""
    text = json.dumps(value).replace("<", "\\u003c")
    return f'<script type="application/json"{identity}>{text}</script>'


def select_button(row: str, words: str) -> str:
    """A button that selects a row everywhere on the page."""
    return f'<button type="button" class="select" data-select="{escape(row)}" aria-pressed="false">{words}</button>'


def glyph(kind: RowKind) -> str:
    """The mark of a kind of row."""
    look = LOOKS[kind]
    shape = _SHAPES[look.symbol].format(look.colour)
    return f'<svg width="16" height="16" viewBox="0 0 16 16" aria-hidden="true">{shape}</svg>'


def note(words: str) -> str:
    return f'<p class="quiet">{words}</p>'


_ANGLES = {"/": 135, "-": 0, "|": 90}


def swatch(colour: str, shape: str = "", stripes: str = "#ffffff") -> str:
    """A patch of a key that repeats the hatching of plotly's bars."""
    if shape == "x":
        lines = (f"repeating-linear-gradient({a}deg,transparent 0 3px,{stripes} 3px 4px)" for a in (45, 135))
        paint = f"{','.join(lines)},{colour}"
    elif shape:
        paint = f"repeating-linear-gradient({_ANGLES[shape]}deg,{colour} 0 4px,{stripes} 4px 6px)"
    else:
        paint = colour
    return f'<span class="swatch" style="background:{paint}"></span>'
