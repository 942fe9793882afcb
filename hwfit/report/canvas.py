"""Canvas: the pixels of a figure with two logarithmic axes, to write names beside its points where there is room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10
from typing import Any

import plotly.graph_objects as go

from hwfit.report.figures import MARGIN
from hwfit.report.labels import Box, Point, place_labels

NARROW, HALF, WIDE = 350, 560, 760
"""Page widths in pixels that names are placed for; wider pages only spread the points."""


@dataclass(frozen=True)
class Name:
    """What to write at a point; `letters` is how many characters of room it needs."""

    row: str
    text: str
    letters: int


@dataclass(frozen=True)
class Canvas:
    figure: go.Figure
    width: int

    @property
    def frame(self) -> Box:
        return (MARGIN["l"], MARGIN["b"], self.width - MARGIN["r"], self.figure.layout.height - MARGIN["t"])  # pyright: ignore

    def pixel(self, x: float, y: float) -> Point:
        """Where a value is, in pixels from the lower left."""
        (x0, x1), (y0, y1) = self.figure.layout.xaxis.range, self.figure.layout.yaxis.range  # pyright: ignore
        left, bottom, right, top = self.frame
        across, up = (log10(x) - x0) / (x1 - x0), (log10(y) - y0) / (y1 - y0)
        return left + across * (right - left), bottom + up * (top - bottom)

    def names(self, points: Sequence[Point], names: Sequence[Name], marks: Sequence[Box]) -> list[dict[str, Any]]:
        """Annotations beside `points` (in values) that keep off each other and off `marks` (in pixels)."""
        anchors = [self.pixel(*point) for point in points]
        sizes = [(7.2 * name.letters + 8, 18.0) for name in names]
        boxes = place_labels(anchors, sizes, marks, self.frame)
        return [
            {
                **{"x": log10(point[0]), "y": log10(point[1]), "text": name.text, "name": name.row},
                **{"ax": (box[0] + box[2]) / 2 - anchor[0], "ay": anchor[1] - (box[1] + box[3]) / 2},
                **{"arrowhead": 0, "arrowwidth": 0.7, "arrowcolor": "#888", "standoff": 7, "borderpad": 1},
                **{"font": {"size": 13}, "bgcolor": "rgba(255,255,255,0.7)"},
            }
            for point, name, anchor, box in zip(points, names, anchors, boxes, strict=True)
        ]
