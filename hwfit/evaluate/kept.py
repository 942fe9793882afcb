"""Kept: results in the user's cache, one file a model and question, so that a rerun does not repeat them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hwfit.files import write_text
from hwfit.packs import cache_dir

T = TypeVar("T")
VERSION = 1
"""Changes whenever answers to the same question would."""


def kept(model: str, name: str, question: Any, read: Callable[[Any], T], make: Callable[[], tuple[T, Any]]) -> T:
    """The result of `make` for a model (its hash) and a JSON-able `question`, read back if it was made before.

    `make` returns the result and its JSON form, `read` makes the result of that again; a file that it cannot read is
    made anew.
    """
    key = json.dumps([VERSION, question], sort_keys=True)
    path = place(model, name, key)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["question"] == key:
            return read(raw["result"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    result, plain = make()
    write_text(path, json.dumps({"question": key, "result": plain}))
    return result


def place(model: str, name: str, key: str) -> Path:
    """Where the result lies."""
    digest = hashlib.sha256(f"{model} {key}".encode()).hexdigest()
    return cache_dir() / "results" / model[:16] / f"{name}-{digest[:16]}.json"
