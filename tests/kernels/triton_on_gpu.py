"""Run on a GPU without TRITON_INTERPRET: every candidate of every precision against float64; prints one JSON object.

`python triton_on_gpu.py [device]`; with TRITON_INTERPRET=1 and device `cpu` it runs its default configurations only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from triton_reference import activations, case, relative_error, rounded_e4m3, rounded_int8

from hwfit.kernels.triton_configs import Config, candidates, default_config
from hwfit.kernels.triton_launch import compiling, launch
from hwfit.kernels.triton_linear import dequantise_gpu, linear, pack_fp8, why_not
from hwfit.kernels.triton_pack import GpuWeight
from hwfit.precision import KNOWN, Precision

N, K = 200, 512
ROWS = (1, 3, 17, 70, 300)


def moved(w: GpuWeight, device: str) -> GpuWeight:
    parts = (None if t is None else t.to(device) for t in (w.codes, w.scales, w.zeros))
    codes, scales, zeros = parts
    assert codes is not None
    assert scales is not None
    return GpuWeight(codes, scales, zeros, w.precision, w.k, w.chunk, w.counters.to(device))


@dataclass(frozen=True)
class Case:
    name: str
    x: torch.Tensor
    weight: GpuWeight  # on the CPU
    configs: tuple[Config, ...]


def cases(device: str, sm: int) -> Iterator[Case]:
    for name in KNOWN:
        p = Precision.parse(name)
        if p.weight_bits >= 16 or why_not(p, sm, K):
            continue
        packed = pack_fp8(torch.randn(N, K, generator=torch.Generator().manual_seed(0))) if p.float8 else None
        weight = packed or case(name, N, K).packed
        for dtype, m in product((torch.float16, torch.bfloat16), ROWS):
            tried = (default_config(m, p),) if device == "cpu" else candidates(m, N, K, p, sm)
            yield Case(name, activations(m, K, dtype=dtype), weight, tried)


def errors(device: str, sm: int) -> dict[str, float]:
    """Relative error of each call, NaN where a second call differs from the first."""
    everything = list(cases(device, sm))
    if device != "cpu":
        with compiling():  # in one go, or most cores would wait for the slowest of a few
            for one in everything:
                w = moved(one.weight, device)
                for config in one.configs:
                    launch(one.x.to(device), w, config)
    found: dict[str, float] = {}
    for one in everything:
        p, x = one.weight.precision, one.x
        dense, on_device = dequantise_gpu(one.weight).double().numpy(), moved(one.weight, device)
        values = x.double().numpy()
        if p.act_bits == 8:
            values = rounded_e4m3(x) if p.float8 else rounded_int8(x)
        for config in one.configs:
            got, again = (linear(x.to(device), on_device, config).cpu() for _ in range(2))
            error = relative_error(got, values @ dense.T, values, dense)
            key = f"{one.name} {str(x.dtype).removeprefix('torch.')} m{len(x)} {config}"
            found[key] = error if torch.equal(got, again) and not on_device.counters.any() else float("nan")
    return found


if __name__ == "__main__":
    device = sys.argv[1] if len(sys.argv) > 1 else "cuda"
    major, minor = torch.cuda.get_device_capability() if device == "cuda" else (9, 0)
    print(json.dumps(errors(device, 10 * major + minor)))
