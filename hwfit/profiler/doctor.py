"""Doctor: what about this machine will show in measured latencies, and what a person could do. It changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hwfit.profiler.device_kinds import device_kind

Verdict = Literal["good", "warn", "bad"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `bad` makes figures useless, `warn` makes them noisier or narrower in what they hold for."""

    what: str
    found: str
    verdict: Verdict
    effect: str
    remedy: str = ""


def examine(device: str = "cpu") -> list[Finding]:
    """Every finding about a device; none where its kind has nobody who looks.

    Raises `HwfitError` for an unknown one, or a GPU that cannot be used at all.
    """
    look = device_kind(device).findings
    return look() if look else []


def useless(findings: list[Finding]) -> bool:
    """Whether figures of such a machine would mean nothing."""
    return any(finding.verdict == "bad" for finding in findings)
