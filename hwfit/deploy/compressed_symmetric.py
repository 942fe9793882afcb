"""compressed-tensors without zero points: what transformers loads, and any vLLM serves.

transformers (5.24, with compressed-tensors 0.20) expects packed zero points at the size of unpacked ones and refuses a
checkpoint that has them (vllm-project/llm-compressor#1704). A code less its zero point fits 8 symmetric bits, so such a
linear is written with the same weights in 8 bits.
"""

from __future__ import annotations

from pathlib import Path

from hwfit.deploy import compressed
from hwfit.deploy.bundle import Bundle
from hwfit.deploy.compressed_schemes import quantised_linears
from hwfit.deploy.regrid import with_precisions
from hwfit.precision import Precision


def without_zero_points(bundle: Bundle) -> Bundle:
    """Every linear inside the blocks that has zero points in 8 symmetric bits, with the same weights."""
    inside = quantised_linears(bundle.subnet)
    old = {f"{name}.weight": p for name, p in inside.items() if not p.is_float and not p.symmetric}
    return with_precisions(bundle, {name: Precision(8, 16, p.group) for name, p in old.items()})


def problems(bundle: Bundle) -> list[str]:
    return compressed.problems(without_zero_points(bundle))


def nearest(bundle: Bundle) -> tuple[Bundle, list[str]]:
    wide = without_zero_points(bundle)
    found, changed = compressed.nearest(wide)
    return found, _wider(bundle, wide) + changed


def write_symmetric(bundle: Bundle, tokenizer: Path, folder: Path) -> list[str]:
    """As `write_compressed`, with a note on the linears that take more bits."""
    wide = without_zero_points(bundle)
    return _wider(bundle, wide) + compressed.write_compressed(wide, tokenizer, folder)


def _wider(bundle: Bundle, wide: Bundle) -> list[str]:
    if wide.subnet == bundle.subnet:
        return []
    more = wide.subnet.weight_bytes / bundle.subnet.weight_bytes - 1
    return [f"weights of 4 bits and fewer are written in 8 without zero points, the same values: {more:+.0%} bytes"]
