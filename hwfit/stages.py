"""Stages: how long each part of a run took, kept in its folder so that a resumed run adds up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from json import dumps
from pathlib import Path

from rich.console import Console

from hwfit.files import is_number, parse_json, readable, write_text

FILE = "stages.json"


@dataclass
class Stages:
    """Seconds by stage. With a `console` each stage begins with a numbered line; without a `path` nothing is kept."""

    path: Path | None = None
    console: Console | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    begun: int = 0

    @contextmanager
    def stage(self, name: str, title: str = "") -> Iterator[None]:
        """Adds the seconds of the block to the stage `name`, also if it fails."""
        self.begun += 1
        if self.console:
            self.console.rule(f"{self.begun} {title or name}", align="left")
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start
            if self.path:
                write_text(self.path, dumps(self.seconds))

    @classmethod
    def of(cls, run: Path, console: Console | None = None) -> Stages:
        """Those of a run folder so far. Raises `HwfitError` for a damaged file."""
        path = run / FILE
        if not path.exists():
            return cls(path, console)
        with readable(path, "count the stages' seconds anew"):
            seconds = {str(name): float(value) for name, value in parse_json(path.read_text()).items()}
            if not all(map(is_number, seconds.values())):
                raise ValueError("not all values are numbers")
        return cls(path, console, seconds)
