"""Long context: predictions by position in sequences packed full of documents, and of a text met once before."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

EDGES = (0, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)


def repeated(row: Sequence[int]) -> list[int]:
    """The first half of the row twice: what a model predicts better the second time it has copied from far back.

    A shorter passage after other text is no test of small models: SmolLM2-135M does not find it again.
    """
    half = len(row) // 2
    return [*row[:half], *row[:half]]


def stretches(context: int) -> dict[str, slice]:
    """`first–last position` -> which predictions of a row lie there; the last one ends at `context`."""
    edges = [edge for edge in EDGES if edge < context] + [context]
    return {f"{a}–{b}": slice(a, b) for a, b in pairwise(edges)}
