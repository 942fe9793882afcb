"""Precision: the bits of one linear layer, as a name such as `w4a8g32` (W4A8, groups of 32 inputs) or `fp8`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from hwfit.errors import HwfitError, nearest

_NAME = re.compile(r"w(?P<w>\d+)(a(?P<a>\d+))?(g(?P<g>\d+))?")
GROUPS = (32, 64, 128)
KNOWN = (
    "w32",
    "w16a16",
    "fp8",
    *(f"w{bits}a8" for bits in (8, 4, 2)),
    *(f"w{bits}a8g{group}" for bits in (8, 4, 2) for group in GROUPS),
    *(f"w{bits}a16" for bits in (8, 4, 2)),
    *(f"w{bits}a16g{group}" for bits in (8, 4, 3, 2) for group in GROUPS),
)
COUNTED = tuple(f"w{bits}a{act}g{group}" for bits in (8, 4, 2) for act in (4, 2) for group in GROUPS)
"""No kernel runs these; a space may hold them to be counted, as the paper's does (arXiv 2606.04063, Table 1)."""


@dataclass(frozen=True, order=True)
class Precision:
    """Weight bits, activation bits and group size of one linear layer.

    `group` is the number of consecutive inputs that share a scale; `None` is one scale per output channel.
    Integer weights of 8 bits are symmetric, narrower ones asymmetric (one zero point per group). `float8` is e4m3
    weights with one scale per output channel and e4m3 activations with one scale per token.
    """

    weight_bits: int
    act_bits: int
    group: int | None = None
    float8: bool = False

    @classmethod
    def parse(cls, name: str) -> Precision:
        """Raises `HwfitError` for a name that is neither in `KNOWN` nor in `COUNTED`."""
        return _parse(name)

    @property
    def name(self) -> str:
        if self.weight_bits == 32:
            return "w32"
        if self.float8:
            return "fp8"
        return f"w{self.weight_bits}a{self.act_bits}" + (f"g{self.group}" if self.group else "")

    @property
    def is_float(self) -> bool:
        """No integer grid: 16 or 32 bits, or fp8."""
        return self.float8 or self.weight_bits >= 16

    @property
    def symmetric(self) -> bool:
        return self.weight_bits >= 8

    def weight_bytes(self, n: int, k: int) -> int:
        """Bytes of a packed `[n, k]` weight with its fp32 scales and its packed zero points."""
        if self.is_float:
            return n * k * self.weight_bits // 8 + (4 * n if self.float8 else 0)
        groups = k // self.group if self.group else 1
        zeros = 0 if self.symmetric else n * ((groups * self.weight_bits + 7) // 8)
        return n * k * self.weight_bits // 8 + 4 * n * groups + zeros

    def __str__(self) -> str:
        return self.name


@cache
def _parse(name: str) -> Precision:
    if name == "fp8":
        return Precision(8, 8, float8=True)
    match = _NAME.fullmatch(name)
    if not match or name not in (*KNOWN, *COUNTED):
        raise HwfitError(f"precision '{name}' is unknown; {nearest(name, KNOWN)}")
    weight, act, group = (int(v) if (v := match[key]) else None for key in "wag")
    assert weight is not None
    return Precision(weight, act or weight, group)
