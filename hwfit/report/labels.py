"""Labels: where to write names beside points so that they cover neither each other nor the points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np

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
    rim, marks = np.asarray([frame], float), np.asarray(obstacles, float).reshape(-1, 4)
    placed: dict[int, Box] = {}
    for i in order:
        boxes = np.asarray([_box(anchors[i], sizes[i], r, a) for r, a in product(DISTANCES, range(ANGLES))])  # [n, 4]
        others = np.asarray(list(placed.values()), float).reshape(-1, 4)
        outside = sizes[i][0] * sizes[i][1] - _covered(boxes, rim)
        unreadable = np.round(outside + _covered(boxes, others), 3)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        far = np.hypot(*(centres - np.asarray(anchors[i])).T)
        best = np.lexsort((far + _covered(boxes, marks), unreadable))[0]
        left, bottom, right, top = boxes[best].tolist()
        placed[i] = (left, bottom, right, top)
    return [placed[i] for i in range(len(anchors))]


def _covered(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The area each of `boxes` `[n, 4]` shares with all of `others` `[m, 4]`: `[n]`."""
    a, b = boxes[:, None], others[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])  # [n, m, 2]
    return np.prod(np.maximum(sides, 0.0), axis=-1).sum(1)


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
