"""Text: numbers as a person reads them, and how each kind of row is called and drawn."""

from __future__ import annotations

from dataclasses import dataclass

from hwfit.report.results import Row, RowKind
from hwfit.search.budget import format_limit
from hwfit.workload import PHASES


@dataclass(frozen=True)
class Look:
    """How a kind of row is drawn. Markers alone tell the kinds apart, so that a grey print stays readable."""

    title: str
    colour: str
    marker: str  # matplotlib
    symbol: str  # plotly


# Colours from Okabe and Ito's palette, safe for colour-blind readers.
LOOKS: dict[RowKind, Look] = {
    "original": Look("original", "#000000", "*", "star"),
    "uniform": Look("uniform bits", "#56748a", "s", "square"),
    "sequential": Look("architecture, then bits", "#d55e00", "^", "triangle-up"),
    "joint": Look("joint search", "#0072b2", "o", "circle"),
}


def significant(value: float, digits: int = 3) -> str:
    """`value` to so many significant digits without an exponent below a million: 28.7, 5.04, 0.0123, 12,300."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value:.{digits - 1}e}"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = max(0, digits - 1 - int(f"{rounded:e}".partition("e")[2]))
    return f"{rounded:,.{decimals}f}"


def log_ticks(low: float, high: float, most: int = 8) -> dict[float, str]:
    """Round values within `low`…`high` for a logarithmic axis and what to write at them: 2 to `most` where possible."""
    steps = [((1, 1.5, 2, 3, 4, 5, 6, 8), 1), ((1, 2, 3, 5, 7), 1), ((1, 2, 5), 1), *(((1,), n) for n in range(1, 9))]
    candidates = (
        [d * 10.0**e for e in range(-9, 40) if e % stride == 0 for d in digits if low <= d * 10.0**e <= high]
        for digits, stride in steps
    )
    chosen = next((ticks for ticks in candidates if 2 <= len(ticks) <= most), [low, high])
    return {tick: _tick(tick) for tick in chosen}


def _tick(value: float) -> str:
    if value >= 1e6:
        digit, _, power = f"{value:.2g}".partition("e+")
        exponent = str(int(power)).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"10{exponent}" if digit == "1" else f"{digit}·10{exponent}"
    return f"{float(f'{value:.3g}'):,.6g}"


def ms(seconds: float) -> str:
    """Milliseconds to three significant digits, without the unit."""
    return significant(seconds * 1e3)


def mb(size: float) -> str:
    """Megabytes (10^6 bytes), without the unit."""
    return significant(size / 1e6)


def percent(fraction: float, signed: bool = False) -> str:
    text = f"{100 * fraction:{'+' if signed else ''}.1f} %"
    return text.replace("-", "−")


def duration(seconds: float) -> str:
    """`45 s`, `3 min 32 s`, `1 h 4 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def budget(row: Row) -> str:
    """`decode 6 ms, memory 120 MB`, or a dash."""
    limits = row.budget or {}
    return ", ".join(_limit(key, limit) for key, limit in limits.items())


def _limit(key: str, limit: float) -> str:
    if key == "memory":
        return f"memory {mb(limit)} MB"
    return f"{key} {limit * 1e3:g} ms" if key in PHASES else format_limit(key, limit)


def widths(row: Row) -> str:
    """`24 blocks, 512 wide, 9x64 heads, MLP 1024–1536`."""
    s = row.subnet
    low, high = min(s.mlp), max(s.mlp)
    mlp = f"{low}" if low == high else f"{low}–{high}"
    return f"{len(s.blocks)} blocks, {s.hidden} wide, {s.heads}×{s.head_size} heads, MLP {mlp}"
