"""Losses: a log of what picks were found to lose, one JSON line each; what is in it is not evaluated again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hwfit.errors import HwfitError
from hwfit.files import is_number, parse_json, write_text
from hwfit.search import parallel
from hwfit.search.discretise import Picked
from hwfit.search.strategies.base import Scored
from hwfit.search.strategies.picks import from_json, to_json
from hwfit.space import Space

FORMAT = 1


class Losses:
    """Loss by pick, and each line on disk before the next evaluation begins.

    A log of another `key` or space is started anew. A last line that a kill cut off is dropped; any other damage
    raises `HwfitError` naming file and line. One run at a time may write; of its processes the first does.
    """

    def __init__(self, path: Path | None, key: str, space: Space):
        self.path, self.space, self.known = path, space, dict[Picked, float]()
        for raw, loss in parallel.from_first(lambda: self._opened(key)):
            self.known[from_json(raw, space)] = loss

    def _opened(self, key: str) -> list[Any]:
        """[pick, loss] of every line; the file is there and ends with a whole line afterwards."""
        if self.path is None:
            return []
        header = {"format": FORMAT, "key": key, "space": self.space.to_dict()}
        lines = _lines(self.path)
        if len(lines) < 2 or _parsed(lines[0], self.path, 1) != header:
            write_text(self.path, json.dumps(header) + "\n")
            return []
        out = [_entry(line, self.path, number, self.space) for number, line in enumerate(lines[1:-1], 2)]
        if lines[-1]:
            os.truncate(self.path, self.path.stat().st_size - len(lines[-1]))
        return [[to_json(picked), loss] for picked, loss in out]

    def add(self, picked: Picked, scored: Scored) -> None:
        self.known[picked] = scored.loss
        if self.path is None or not parallel.first():
            return
        line = json.dumps({"loss": scored.loss, "costs": dict(scored.costs), "picked": to_json(picked)})
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())


def _lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().split(b"\n") if path.exists() else []
    except OSError as error:
        raise HwfitError(f"{path}: cannot be read ({error}); name another file") from error


def _parsed(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        raw = parse_json(line)
        if not isinstance(raw, dict):
            raise ValueError("no JSON object")
        return raw
    except ValueError as error:
        raise HwfitError(f"{path}, line {number}: damaged ({error}); delete the file to evaluate anew") from error


def _entry(line: bytes, path: Path, number: int, space: Space) -> tuple[Picked, float]:
    raw = _parsed(line, path, number)
    try:
        if not is_number(raw["loss"]):
            raise ValueError(f"loss {raw['loss']!r}")
        return from_json(raw["picked"], space), float(raw["loss"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise HwfitError(
            f"{path}, line {number}: damaged ({type(error).__name__}: {error}); delete the file to evaluate anew"
        ) from error
