"""Doctor: what about this machine will show in measured latencies, and what a person could do. It changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hwfit.errors import HwfitError, nearest

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
    """Every finding about a device. Raises `HwfitError` for an unknown one, or a GPU that cannot be used at all."""
    if device not in _EXAMINERS:
        raise HwfitError(f"--device '{device}' is unknown; {nearest(device, _EXAMINERS)}")
    return _EXAMINERS[device]()


def useless(findings: list[Finding]) -> bool:
    """Whether figures of such a machine would mean nothing."""
    return any(finding.verdict == "bad" for finding in findings)


def _cpu() -> list[Finding]:
    from hwfit.profiler.doctor_cpu import findings

    return findings()


def _gpu() -> list[Finding]:
    from hwfit.profiler.doctor_gpu import findings

    return findings()


_EXAMINERS: dict[str, Callable[[], list[Finding]]] = {"cpu": _cpu, "cuda": _gpu}
