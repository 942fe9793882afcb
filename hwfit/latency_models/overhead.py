"""Overhead: what a whole forward call costs beyond the sum of its ops, per phase; JSON in and out."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from hwfit.errors import HwfitError
from hwfit.files import is_number, parse_json, write_text
from hwfit.workload import PHASES, PhaseName

FORMAT = 2


@dataclass(frozen=True)
class Terms:
    """seconds = scale x (sum of ops) + block x (kept blocks) + constant - resident x (share cached) x (sum of ops).

    `block` and `constant` are seconds. Ops are priced as if their weights came from memory; on a processor with a large
    last cache those of a small model stay there from token to token. Of a call that reads `read` bytes, the share
    max(0, 1 - read / `cache`) does; `resident` is the share of the ops' time that is saved when all is cached.
    `error` is the relative error that new models should stay within 9 times in 10, from the `runs` timed models when
    each was left out of the choice of terms and their fit (0: never fitted).
    """

    block: float = 0.0
    constant: float = 0.0
    scale: float = 1.0
    error: float = 0.0
    runs: int = 0
    resident: float = 0.0
    cache: float = 0.0

    def apply(self, ops: float, blocks: int, read: float = math.inf) -> float:
        """`ops`: the summed prices in seconds; returns the seconds of the whole call."""
        saved = self.resident * max(0.0, 1 - read / self.cache) if self.cache else 0.0
        return (self.scale - saved) * ops + self.block * blocks + self.constant


@dataclass(frozen=True)
class Overhead:
    """The terms of each phase for one device; the default adds nothing."""

    decode: Terms = Terms()
    prefill: Terms = Terms()
    device: str = ""

    def terms(self, phase: PhaseName) -> Terms:
        return getattr(self, phase)

    @property
    def from_memory(self) -> Overhead:
        """Without what a cache saves."""
        decode, prefill = (replace(terms, resident=0.0, cache=0.0) for terms in (self.decode, self.prefill))
        return replace(self, decode=decode, prefill=prefill)

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str, source: str = "overhead") -> Overhead:
        """Validated inverse of `to_json`. Raises `HwfitError` naming `source` and everything wrong in it."""
        try:
            raw = parse_json(text)
            if raw["format"] != FORMAT:
                raise HwfitError(f"{source}: format {raw['format']} is not the supported {FORMAT}; fit it again")
            rows = {phase: raw[phase] for phase in PHASES}
            terms = {phase: Terms(**{f.name: row[f.name] for f in fields(Terms)}) for phase, row in rows.items()}
            problems = [f"{source}: {p}.{name}={v!r} {rule}" for p, t in terms.items() for name, v, rule in _wrong(t)]
            device = raw["device"]
        except (ValueError, KeyError, TypeError) as error:
            raise HwfitError(
                f"{source}: not an overhead file ({type(error).__name__}: {error}); fit it again"
            ) from error
        if not isinstance(device, str):
            problems.append(f"{source}: device={device!r} must be text")
        if problems:
            raise HwfitError(problems)
        return cls(**terms, device=device)

    def save(self, path: Path) -> None:
        """Written to a temporary name, synced, renamed."""
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Overhead:
        try:
            return cls.from_json(path.read_text(), source=str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise HwfitError(f"{path}: cannot be read ({error}); fit it again") from error


NO_OVERHEAD = Overhead()


def _wrong(terms: Terms) -> list[tuple[str, object, str]]:
    """(field, value, rule broken) of every impossible value."""
    found: list[tuple[str, object, str]] = []
    for name, value in asdict(terms).items():
        if not is_number(value):
            found.append((name, value, "must be a finite number"))
        elif (name == "scale" and value <= 0) or (name in ("resident", "cache", "error", "runs") and value < 0):
            found.append((name, value, "must be above 0" if name == "scale" else "must not be negative"))
        elif name == "resident" and is_number(terms.scale) and 0 < terms.scale <= value:
            found.append((name, value, f"must be below the scale, {terms.scale:g}"))
    return found
