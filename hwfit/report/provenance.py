"""Provenance: where the figures come from, as nested lists; long ones to unfold."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from hwfit.files import parse_json

LONG = 200
"""Characters above which a value is folded away."""


def provenance(facts: Mapping[str, Any]) -> str:
    """A definition list of `facts`; texts that hold a JSON object, as settings do, are shown as one."""
    return f"<dl>{''.join(_pair(str(key), _plain(value)) for key, value in facts.items())}</dl>"


def _pair(key: str, value: Any) -> str:
    shown = _words(value)
    if len(shown) > LONG:
        whole = provenance(value) if isinstance(value, dict) else f"<p>{escape(shown)}</p>"
        return f"<dt>{escape(key)}</dt><dd><details><summary>{_count(value)}</summary>{whole}</details></dd>"
    return f"<dt>{escape(key)}</dt><dd>{escape(shown)}</dd>"


def _plain(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("{"):
        try:
            return parse_json(value)
        except ValueError:
            return value
    return value


def _count(value: Any) -> str:
    return f"{len(value)} entries" if isinstance(value, (dict, list, tuple)) else "the whole text"


def _words(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_words, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_words(v)}" for k, v in value.items()) or "none"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 100_000:
        return f"{value:,}"
    return "not known" if value is None else str(value)
