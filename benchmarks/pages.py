"""Pages: what a reader types of README.md and docs/howto-*.md, taken from their fenced bash and python blocks.

A comment behind a command may hold `(needs a GPU)` or `(takes 25 minutes)`: who types all of them leaves those out,
and `exit code 1`: another way for it to end well. An HTML comment `<!-- test: A => B -->` says what the tests put in
the place of A, `<!-- newcomer: A => B -->` what `benchmarks.newcomer` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parent.parent
HOWTOS = sorted((ROOT / "docs").glob("howto-*.md"))
_BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHORTER = re.compile(r"<!-- (\w+): (.+?) => (.*?) -->")
_COMMENT = re.compile(r"(?:^|\s+)#\s.*")
_UNLESS = re.compile(r"\(((?:needs|takes) [^)]+)\)")
_EXIT = re.compile(r"exit code (\d)")
_HEREDOC = re.compile(r"<<\s*'?(\w+)'?")


@dataclass(frozen=True)
class Step:
    """One command, or one block of Python. `unless` is what a machine may lack for it."""

    kind: Literal["bash", "python"]
    text: str
    unless: str | None = None
    exits: tuple[int, ...] = (0,)


def read_steps(page: Path, reader: str) -> list[Step]:
    """What `reader` (`test` or `newcomer`) types of a page, in order."""
    text = page.read_text(encoding="utf-8")
    shorter = [(old, new) for who, old, new in _SHORTER.findall(text) if who == reader]
    found: list[Step] = []
    for kind, block in _BLOCK.findall(text):
        for old, new in shorter:
            block = block.replace(old, new)
        found += [Step("python", block)] if kind == "python" else _commands(block)
    return found


def _commands(block: str) -> Iterator[Step]:
    """Commands of a bash block; a backslash or a here-document makes several lines one."""
    lines = iter(block.splitlines())
    for line in lines:
        comment = "".join(_COMMENT.findall(line))
        text = _COMMENT.sub("", line)
        while text.endswith("\\"):
            text = text[:-1] + next(lines).strip()
        if mark := _HEREDOC.search(text):
            while not text.endswith(f"\n{mark[1]}"):
                text += "\n" + next(lines)
        if text.strip():
            unless = _UNLESS.search(comment)
            codes = tuple(int(code) for code in _EXIT.findall(comment))
            yield Step("bash", text, unless and unless[1], (0, *codes))
