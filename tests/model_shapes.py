"""Shapes of real models."""

from hwfit.subnet import ModelShape

SMOLLM2 = ModelShape(576, 9, 3, 64, 1536, 30, 49152)
LLAMA_8B = ModelShape(4096, 32, 8, 128, 14336, 32, 128_256)
