"""Origin: which model a subnet was cut out of, and under which licence; kept beside its weights as `origin.json`."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from hwfit.files import read_object, write_text

ORIGIN = "origin.json"


@dataclass(frozen=True)
class Origin:
    """`name` is a known name, a hub id or a folder's name; what is not known is None."""

    name: str | None = None
    description: str | None = None
    source: str | None = None
    licence: str | None = None

    @classmethod
    def of(cls, model: Path) -> Origin:
        """Of a deployed folder, a fetched model, a hub download or any model folder, as far as its files tell."""
        if kept := read_object(model / ORIGIN):
            return cls(**{key: kept[key] for key in cls.__dataclass_fields__ if isinstance(kept.get(key), str)})
        told = read_object(model / "hwfit.json")
        name = told.get("name") or _hub_id(model) or model.resolve().name
        return cls(name, told.get("origin"), told.get("source"), told.get("licence") or _card_licence(model))

    def save(self, folder: Path) -> None:
        write_text(folder / ORIGIN, json.dumps(asdict(self), indent=1))


def _hub_id(model: Path) -> str | None:
    """`owner/name` of a folder in the hub's cache: `models--owner--name/snapshots/<commit>`."""
    for part in reversed(model.resolve().parts):
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/", 1)
    return None


def _card_licence(model: Path) -> str | None:
    """`license:` in the front matter of the model's README.md."""
    try:
        card = (model / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    head = card.split("\n---", 1)[0] if card.startswith("---") else ""
    found = re.search(r"^license:\s*['\"]?([\w.-]+)", head, re.MULTILINE)
    return found[1] if found else None
