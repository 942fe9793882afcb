"""Labels: where to write names beside points so that they cover neither each other nor the points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, product

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, bottom, right, top
DISTANCES = (8, 16, 28, 44, 64, 90, 120, 160, 220)
ANGLES = 24


def overlap(a: Box, b: Box) -> float:
    """Area two boxes share, 0 if they only touch."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def place_labels(anchors: Sequence[Point], sizes: Sequence[Point], obstacles: Sequence[Box], frame: Box) -> list[Box]:
    """A box of each size near its anchor, in pixels: greedy over rings of candidates, crowded anchors first.

    Of the candidates that cover earlier labels and leave `frame` least, the one nearest and clearest of `obstacles`
    is taken; so labels overlap only where no candidate is free.
    """
    order = sorted(range(len(anchors)), key=lambda i: min(_distances(anchors, i), default=math.inf))
    placed: dict[int, Box] = {}
    for i in order:
        candidates = [_box(anchors[i], sizes[i], r, a) for r, a in product(DISTANCES, range(ANGLES))]
        others = list(placed.values())

        def cost(box: Box, others: list[Box] = others, anchor: Point = anchors[i]) -> tuple[float, float]:
            outside = (box[2] - box[0]) * (box[3] - box[1]) - overlap(box, frame)
            unreadable = round(outside + sum(overlap(box, o) for o in others), 3)
            far = math.dist(anchor, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
            return unreadable, far + sum(overlap(box, o) for o in obstacles)

        placed[i] = min(candidates, key=cost)
    return [placed[i] for i in range(len(anchors))]


def line_boxes(points: Sequence[Point], step: float = 6) -> list[Box]:
    """Small boxes that cover the line through `points`."""
    boxes: list[Box] = []
    for (x0, y0), (x1, y1) in pairwise(points):
        count = max(1, round(math.dist((x0, y0), (x1, y1)) / step))
        centres = ((x0 + (x1 - x0) * t / count, y0 + (y1 - y0) * t / count) for t in range(count + 1))
        boxes += [(x - step / 2, y - step / 2, x + step / 2, y + step / 2) for x, y in centres]
    return boxes


def _distances(anchors: Sequence[Point], i: int) -> list[float]:
    return [math.dist(anchors[i], a) for j, a in enumerate(anchors) if j != i]


def _box(anchor: Point, size: Point, distance: float, step: int) -> Box:
    """A box whose edge is `distance` from the anchor in direction `step` of `ANGLES`."""
    angle = 2 * math.pi * step / ANGLES
    dx, dy = math.cos(angle), math.sin(angle)
    x = anchor[0] + dx * (distance + size[0] / 2)
    y = anchor[1] + dy * (distance + size[1] / 2)
    return (x - size[0] / 2, y - size[1] / 2, x + size[0] / 2, y + size[1] / 2)
