"""Long context: predictions by position in sequences packed full of documents, and of a passage met once before."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

EDGES = (0, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
PASSAGE = 128
"""Tokens of the passage that ends a sequence as it began it."""


def repeated(row: Sequence[int]) -> list[int]:
    """The row with its first `PASSAGE` tokens again at its end."""
    return [*row[: len(row) - PASSAGE], *row[:PASSAGE]]


def stretches(context: int) -> dict[str, slice]:
    """`first–last position` -> which predictions of a row lie there; the last one ends at `context`."""
    edges = [edge for edge in EDGES if edge < context] + [context]
    return {f"{a}–{b}": slice(a, b) for a, b in pairwise(edges)}
