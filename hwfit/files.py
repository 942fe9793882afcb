"""Files that are either whole or absent: written under a temporary name, fsynced, renamed. And values read from them,
which may be anything."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hwfit.errors import HwfitError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; moves it there when the block ends well, removes it otherwise.

    Who may read it is as for any new file, also where the block's writer (safetensors) lets only its owner.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        temporary.chmod(mode)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def parse_json(text: str | bytes) -> Any:
    """`json.loads` that raises `ValueError` for every text it cannot read, also for one nested too deep."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, or an empty one: what is lost with a missing or damaged file is unknown."""
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def readable(path: Path | str, again: str) -> Iterator[None]:
    """What goes wrong in reading a file of this run is a `HwfitError` that says what deleting it leads to."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise HwfitError(f"{path}: damaged ({type(error).__name__}: {error}); delete it to {again}") from error


def is_number(value: object) -> bool:
    """Whether a value from a file is a finite number, and one that a float can hold."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an int beyond the largest float
        return False
