"""compressed-tensors export: a Hugging Face directory with a quantisation config and packed weights, as vLLM serves it.

pack-quantized    weight_packed      int32 [n, k * bits / 32]        unsigned codes, the first in the lowest bits
                  weight_scale       fp16  [n, groups]
                  weight_zero_point  int32 [n * bits / 32, groups]   packed down the rows; 4 bits only
                  weight_shape       int64 [2]
int-quantized     weight             int8  [n, k]
                  weight_scale       fp16  [n, 1]
float-quantized   weight             e4m3  [n, k]
                  weight_scale       fp32  [n, 1]
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from hwfit.deploy.bundle import WEIGHTS, Bundle, rounded_weights
from hwfit.deploy.compressed_schemes import (
    notes,
    quantisation_config,
    quantised_linears,
    scheme_of,
    scheme_problems,
    served,
)
from hwfit.deploy.folder import copy_tokenizer
from hwfit.deploy.hf import evened, uneven_problems
from hwfit.deploy.slice import LM_HEAD
from hwfit.files import replacing, write_text
from hwfit.kernels.pack import pack_bits
from hwfit.kernels.quantise import Quantised, fp8_scales


def problems(bundle: Bundle) -> list[str]:
    return uneven_problems(bundle) + scheme_problems(bundle)


def nearest(bundle: Bundle) -> tuple[Bundle, list[str]]:
    even, first = evened(bundle)
    found, second = served(even)
    return found, first + second


def write_compressed(bundle: Bundle, tokenizer: Path, folder: Path) -> list[str]:
    """Write the directory of a bundle without `problems`; notes on what differs from it."""
    inside = quantised_linears(bundle.subnet)
    schemes = {name: scheme_of(p) for name, p in inside.items()} | {LM_HEAD: None}
    tensors: dict[str, Tensor] = {}
    dense = rounded_weights(bundle)
    for name, weight in bundle.tensors.items():
        module = name.removesuffix(".weight")
        scheme = schemes.get(module)
        if scheme is None:
            tensors[name] = dense[name].half()
            continue
        packed = _PACKERS[scheme.kind](weight)  # pyright: ignore[reportArgumentType]
        tensors |= {f"{module}.{key}": t.contiguous() for key, t in packed.items()}
    with replacing(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    copy_tokenizer(tokenizer, folder)
    quantisation = quantisation_config(schemes)
    added = {"quantization_config": quantisation} if quantisation else {}
    written = {**bundle.config, "dtype": "float16", **added}
    write_text(folder / "config.json", json.dumps(written, indent=1))
    return ["scales and plain weights are rounded to fp16", *notes(bundle.subnet)]


def _pack(q: Quantised) -> dict[str, Tensor]:
    bits, zeros = q.precision.weight_bits, q.grid.zeros
    codes = q.codes.numpy()
    unsigned = codes.view(np.uint8) ^ np.uint8(128) if q.precision.symmetric else codes
    out = {
        "weight_packed": _words(pack_bits(unsigned, bits)),
        "weight_scale": q.grid.scales.half(),
        "weight_shape": torch.tensor(q.shape),
    }
    if zeros is not None:
        down = np.ascontiguousarray(zeros.numpy().astype(np.uint8).T)  # [groups, n]
        out["weight_zero_point"] = _words(pack_bits(down, bits)).T
    return out


def _int8(q: Quantised) -> dict[str, Tensor]:
    return {"weight": q.codes, "weight_scale": q.grid.scales.half()}


def _e4m3(weight: Tensor) -> dict[str, Tensor]:
    scales = fp8_scales(weight)
    return {"weight": (weight.float() / scales).to(torch.float8_e4m3fn), "weight_scale": scales}


_PACKERS: dict[str, Callable[..., dict[str, Tensor]]] = {
    "pack-quantized": _pack,
    "int-quantized": _int8,
    "float-quantized": _e4m3,
}


def _words(rows: np.ndarray) -> Tensor:
    """uint8 `[n, bytes]` -> int32 `[n, ceil(bytes / 4)]`, low byte first."""
    pad = -rows.shape[1] % 4
    return torch.from_numpy(np.ascontiguousarray(np.pad(rows, ((0, 0), (0, pad)))).view("<i4"))
