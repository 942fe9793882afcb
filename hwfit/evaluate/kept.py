"""Kept: results in the user's cache, one file a model and question, so that a rerun does not repeat them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hwfit.errors import HwfitError
from hwfit.files import parse_json, write_text
from hwfit.packs import cache_dir

T = TypeVar("T")
VERSION = 1
"""Changes whenever answers to the same question would."""


def kept(model: str, name: str, question: Any, read: Callable[[Any], T], make: Callable[[], tuple[T, Any]]) -> T:
    """The result of `make` for a model (its hash) and a JSON-able `question`, read back if it was made before.

    `make` returns the result and its JSON form, `read` makes the result of that again; a damaged file is made anew.
    """
    key = json.dumps([VERSION, question], sort_keys=True)
    path = place(model, name, key)
    if (found := read_kept(path, key)) is not None:
        return read(found)
    result, plain = make()
    write_kept(path, key, plain)
    return result


def read_kept(path: Path, key: str) -> Any:
    """What `write_kept` wrote under the same key; None without such a file, or if anything in it was changed."""
    try:
        raw = parse_json(path.read_text(encoding="utf-8"))
        whole = raw["key"] == key and raw["digest"] == _digest(key, raw["result"])
        return raw["result"] if whole else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_kept(path: Path, key: str, result: Any) -> None:
    """A JSON-able `result` with a digest, so that a damaged file is not taken for one. Raises `HwfitError` if it cannot
    be written."""
    try:
        write_text(path, json.dumps({"key": key, "digest": _digest(key, result), "result": result}))
    except OSError as error:
        raise HwfitError(
            f"{path}: cannot be written ({error.strerror}); free some space or remove what stands there"
        ) from error


def _digest(key: str, result: Any) -> str:
    return hashlib.sha256(json.dumps([key, result]).encode()).hexdigest()


def place(model: str, name: str, key: str) -> Path:
    """Where the result lies."""
    digest = hashlib.sha256(f"{model} {key}".encode()).hexdigest()
    return cache_dir() / "results" / model[:16] / f"{name}-{digest[:16]}.json"
