"""The one error type a user of hwfit sees: every problem at once, each with what would work instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class HwfitError(Exception):
    """A problem the user can mend. The CLI prints `problems` and exits with code 2.

    Each problem names the flag or file, the value, what is allowed and the nearest thing that would work.
    """

    def __init__(self, problems: str | Sequence[str]):
        self.problems: list[str] = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


def nearest(value: str, allowed: Iterable[str]) -> str:
    """`allowed: a, b, c (did you mean b?)` for an error message."""
    names = sorted(allowed)
    close = difflib.get_close_matches(value, names, n=1, cutoff=0.4)
    return f"allowed: {', '.join(names)}" + (f" (did you mean {close[0]}?)" if close else "")


def raise_all(problems: Sequence[str]) -> None:
    """Raise `HwfitError` if there is any problem."""
    if problems:
        raise HwfitError(problems)
