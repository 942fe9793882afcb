"""Configurations: the tile shapes that may run a linear, few enough that all of them are compiled and checked.

    skinny    up to 16 rows; `bn` outputs, a block of inputs a warp and step
    dot       tensor cores; [bn, bm] tiles of yᵀ
    dense     the weight dequantised to 16 bits, then cuBLAS
    library   int8 cuBLAS (torch._int_mm), then the scales

`split` programs share the K of one tile, so that a narrow or short product still fills the device.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from hwfit.kernels.triton_pack import COUNTERS, chunk_size, k_padding
from hwfit.precision import Precision

Variant = Literal["skinny", "dot", "dense", "library"]

SHARED_MEMORY = {80: 163 << 10, 86: 99 << 10, 87: 163 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10}
"""Bytes of shared memory a program may use, by compute capability; unknown ones get the least."""
MULTIPROCESSORS = 132  # of an H200 (A100: 108): how many programs `split` aims for


@dataclass(frozen=True, order=True)
class Config:
    """Tile sizes and launch settings of one kernel. 0 where a variant has no such setting."""

    variant: Variant
    bm: int = 0
    bn: int = 0
    split: int = 1
    warps: int = 4
    stages: int = 1
    registers: int = 0  # a thread may use; left to itself, the compiler sometimes spills to fit more programs

    def __str__(self) -> str:
        if self.variant in ("dense", "library"):
            return self.variant
        sizes = {name: value for name, value in asdict(self).items() if name != "variant" and value}
        return " ".join([self.variant, *(f"{name}{value}" for name, value in sizes.items())])


DENSE = Config("dense")
LIBRARY = Config("library")

# bm, bn, warps, stages, registers; by the largest number of rows they are for. Two warps are below what Hopper's
# warp-group instructions need, and the older ones take 8-bit codes from shared memory four at a time instead of two.
_TILES = {
    16: ((16, 64, 2, 4, 0), (16, 128, 4, 3, 0)),
    64: ((32, 64, 4, 4, 0), (64, 64, 4, 3, 208), (64, 128, 4, 3, 0)),
    1 << 62: ((64, 64, 4, 3, 208), (64, 128, 4, 3, 0), (128, 128, 8, 3, 0), (128, 256, 8, 3, 0)),
}
_FEW_A8 = {  # activations of 8 bits
    8: ((8, 32, 2, 6, 0), (8, 64, 4, 4, 0), (16, 128, 4, 3, 0)),
    16: ((16, 32, 2, 6, 0), (16, 64, 4, 6, 0), (16, 128, 4, 3, 0)),
}
_SKINNY = ((32, 1, 3), (32, 2, 3), (32, 4, 4), (16, 2, 4), (16, 4, 4))  # bn, warps, stages: few warps that overlap


def candidates(m: int, n: int, k: int, p: Precision, sm: int) -> tuple[Config, ...]:
    """What is worth timing for `[m, k] -> [m, n]`: fits the shared memory of `sm`, fills the device if it can.

    Empty for precisions that need no kernel of ours (16 bits).
    """
    if p.weight_bits >= 16:
        return ()
    found: list[Config] = []
    if m <= 16 and p.act_bits == 16:
        blocks, bm = _row_bytes(p, k) // chunk_size(p.weight_bits, p.group, k), 8 if m <= 8 else 16
        for bn, warps, stages in _SKINNY:
            spills = p.group == 32 and (p.weight_bits == 8 or bm == bn)
            shared = (stages - 1) * warps * stage_bytes(bm, bn, p, k)
            if spills or warps > blocks or shared > SHARED_MEMORY.get(sm, 99 << 10):
                continue
            for split in _splits(-(-n // bn), -(-blocks // warps), 16 // warps):
                found.append(Config("skinny", bm, bn, split, warps, stages))
    sizes = _TILES | (_FEW_A8 if p.act_bits == 8 else {})
    for bm, bn, warps, stages, registers in sizes[min(rows for rows in sizes if m <= rows)]:
        if (bm > 64 and bm >= 2 * m) or _would_spill(bm, bn, warps, p, k, sm):
            continue
        tile_steps = -(-k // step_inputs(p, k))
        fitting = min(stages, SHARED_MEMORY.get(sm, 99 << 10) // stage_bytes(bm, bn, p, k))
        if fitting < 2:
            continue
        programs = -(-m // bm) * -(-n // bn)
        for split in _splits(programs, tile_steps, 4):
            found.append(Config("dot", bm, bn, split, warps, fitting, registers))
    if m >= 256 and p.act_bits == 16:
        found.append(DENSE)
    if m > 16 and p.weight_bits == 8 and p.act_bits == 8 and not p.group and not p.float8 and n % 8 == 0:
        found.append(LIBRARY)
    return tuple(found)


def default_config(m: int, p: Precision) -> Config:
    """A configuration that runs anywhere, also in the interpreter: small tiles, no pipeline."""
    if m <= 16 and p.act_bits == 16:
        return Config("skinny", 8 if m <= 8 else 16, 16, stages=2)
    return Config("dot", 16 if m <= 16 else 64, 64, stages=2)


def step_bytes(p: Precision, k: int) -> int:
    """Bytes of a row that one step of a `dot` kernel takes: one block, but 128 inputs of 8 bits where that fits."""
    if p.weight_bits == 8 and p.act_bits == 8 and k % 128 == 0 and p.group in (None, 128):
        return 128
    return chunk_size(p.weight_bits, p.group, k)


def step_inputs(p: Precision, k: int) -> int:
    return step_bytes(p, k) * 8 // p.weight_bits


def stage_bytes(bm: int, bn: int, p: Precision, k: int) -> int:
    """Shared memory of one pipeline stage: a tile of activations and a tile of packed codes."""
    step = step_inputs(p, k)
    return bm * step * p.act_bits // 8 + bn * step * p.weight_bits // 8


def _would_spill(bm: int, bn: int, warps: int, p: Precision, k: int, sm: int) -> bool:
    """What `benchmarks.kernel_compile` found: too many sums a thread, beside other sums or unpacked weights."""
    sums = bm * bn // (32 * warps)
    several = bool(p.group) and p.group < step_inputs(p, k) and p.weight_bits == 2  # groups a step
    if p.act_bits == 8:
        return sums > 64 * (1 + (sm >= 90 and not (p.group or p.float8))) or (several and (sums > 32 or warps == 2))
    return (sums > 64 and (sm < 90 or bool(p.group))) or (several and sums > 32 and bm < bn and sm < 90)


def _row_bytes(p: Precision, k: int) -> int:
    return (k + k_padding(k, step_inputs(p, k))) * p.weight_bits // 8


def _splits(programs: int, steps: int, per_multiprocessor: int) -> list[int]:
    """No split where programs abound; else two or three that bring 1 to `per_multiprocessor` programs to each."""
    if programs > COUNTERS or programs >= 2 * MULTIPROCESSORS * per_multiprocessor:
        return [1]
    wanted = [s for s in (1, 2, 4, 8, 16, 32) if s <= max(1, steps // 2)]
    filling = [s for s in wanted if MULTIPROCESSORS <= programs * s <= 2 * MULTIPROCESSORS * per_multiprocessor]
    return filling or [wanted[-1]]
