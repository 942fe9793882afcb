"""Choice: a finished search result as kept on disk."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from hwfit.files import parse_json, readable
from hwfit.search.budget import Budget
from hwfit.search.optimise import StepLog
from hwfit.subnet import Subnet


@dataclass(frozen=True)
class Choice:
    """A finished search result as kept on disk: `kind` is the name of a strategy.

    `beaten_by` names another of the front that makes it pointless (see `joint.beaten`).
    """

    name: str
    kind: str
    budget: Budget | None
    subnet: Subnet
    log: tuple[StepLog, ...] = ()
    beaten_by: str | None = None

    def to_json(self, key: str) -> str:
        limits = self.budget.limits if self.budget else None
        body = {"key": key, "name": self.name, "kind": self.kind, "budget": limits, "beaten_by": self.beaten_by}
        return json.dumps(body | {"subnet": json.loads(self.subnet.to_json()), "log": [asdict(s) for s in self.log]})

    @classmethod
    def load(cls, path: Path, key: str) -> Choice | None:
        """The choice in `path` if it was made under the same `key`. Raises `HwfitError` for a damaged file."""
        with readable(path, "search again"):
            text = path.read_text(encoding="utf-8") if path.exists() else None
        return None if text is None else cls.from_json(text, key, str(path))

    @classmethod
    def from_json(cls, text: str, key: str, path: str) -> Choice | None:
        """Inverse of `to_json`; None under another `key`. Raises `HwfitError` naming `path` for a damaged text."""
        with readable(path, "search again"):
            raw = parse_json(text)
            if raw["key"] != key:
                return None
            budget = Budget(tuple((str(m), float(v)) for m, v in raw["budget"])) if raw["budget"] else None
            subnet = Subnet.from_json(json.dumps(raw["subnet"]), source=path)
            log = tuple(StepLog(**s) for s in raw["log"])
            return cls(raw["name"], raw["kind"], budget, subnet, log, raw.get("beaten_by"))
