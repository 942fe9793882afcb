"""The PTX that the interpreter cannot run, run here by a dozen lines of Python, on every byte."""

import re

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed (the optional extra `gpu`)")

from hwfit.kernels.triton_int8 import subtract_asm
from hwfit.kernels.triton_weight_only import spread_asm

WORD = 0xFFFFFFFF


def run(asm: str, outputs: int, *inputs: int) -> list[int]:
    """The output registers of a block of straight-line PTX; `$i` are outputs, then inputs."""
    registers = {f"${outputs + i}": value for i, value in enumerate(inputs)}

    def value(name: str) -> int:
        return registers[name] if name in registers else int(name, 0) & WORD

    for line in asm.strip().strip("{}").split(";"):
        words = re.split(r"[\s,]+", line.strip())
        if words[0] in ("", ".reg"):
            continue
        operation, target, *operands = words
        a, b, *_ = (value(name) for name in operands)
        match operation.split("."):
            case ["shr", "u32"]:
                result = a >> b
            case ["and", "b32"]:
                result = a & b
            case ["or", "b32"]:
                result = a | b
            case ["xor", "b32"]:
                result = a ^ b
            case ["sub", "u32"]:
                result = a - b
            case ["prmt", "b32"]:
                pool = (b << 32) | a
                picks = [(int(operands[2], 0) >> (4 * i)) & 7 for i in range(4)]
                result = sum(((pool >> (8 * pick)) & 0xFF) << (8 * i) for i, pick in enumerate(picks))
            case _:
                raise AssertionError(f"unknown instruction {line}")
        registers[target] = result & WORD
    return [registers[f"${i}"] for i in range(outputs)]


def word(values: np.ndarray) -> int:
    return int.from_bytes(values.astype(np.uint8).tobytes(), "little")


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize(("exponent", "dtype", "base"), [(0x64, torch.float16, 1024), (0x43, torch.bfloat16, 128)])
def test_spread_makes_four_floats_of_four_bytes(bits: int, exponent: int, dtype: torch.dtype, base: int) -> None:
    if bits == 8 and dtype == torch.bfloat16:
        pytest.skip("8-bit codes go through fp16")
    for lane in range(8 // bits):
        for start in range(256):
            packed = (np.arange(4) * 77 + start) % 256
            low, high = run(spread_asm(bits * lane, bits, exponent), 2, word(packed))
            raw = torch.tensor([low & 0xFFFF, low >> 16, high & 0xFFFF, high >> 16], dtype=torch.int32)
            floats = raw.to(torch.int16).view(dtype).float().numpy()
            assert floats.tolist() == (base + ((packed >> (bits * lane)) & (2**bits - 1))).tolist()


@pytest.mark.parametrize("bits", [4, 2])
def test_subtract_keeps_four_signed_bytes_apart(bits: int) -> None:
    top = 2**bits
    for lane in range(8 // bits):
        for start in range(256):
            packed = (np.arange(4) * 77 + start) % 256
            for first in range(top):
                zeros = (np.arange(4) + first) % top
                (out,) = run(subtract_asm(bits * lane, bits), 1, word(packed), word(zeros))
                got = np.frombuffer(out.to_bytes(4, "little"), np.int8)
                assert got.tolist() == (((packed >> (bits * lane)) & (top - 1)) - zeros).tolist()
