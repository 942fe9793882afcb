"""Run on a GPU without TRITON_INTERPRET: every candidate of every precision against float64; prints one JSON object.

`python triton_on_gpu.py [device]`; with TRITON_INTERPRET=1 and device `cpu` it runs its default configurations only.
"""

from __future__ import annotations

import json
import sys

import torch
from triton_reference import activations, case, relative_error, rounded_e4m3, rounded_int8

from hwfit.kernels.triton_autotune import compile_all
from hwfit.kernels.triton_configs import candidates, default_config
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


def errors(device: str, sm: int) -> dict[str, float]:
    """Relative error of each call, NaN where a second call differs from the first."""
    found: dict[str, float] = {}
    for name in KNOWN:
        p = Precision.parse(name)
        if p.weight_bits >= 16 or why_not(p, sm, K):
            continue
        packed = pack_fp8(torch.randn(N, K, generator=torch.Generator().manual_seed(0))) if p.float8 else None
        weight = packed or case(name, N, K).packed
        dense, on_device = dequantise_gpu(weight).double().numpy(), moved(weight, device)
        for dtype in (torch.float16, torch.bfloat16):
            for m in ROWS:
                x = activations(m, K, dtype=dtype)
                values = x.double().numpy()
                if p.act_bits == 8:
                    values = rounded_e4m3(x) if p.float8 else rounded_int8(x)
                tried = (default_config(m, p),) if device == "cpu" else candidates(m, N, K, p, sm)
                if device != "cpu":
                    compile_all(x.to(device), on_device, tried)
                for config in tried:
                    got, again = (linear(x.to(device), on_device, config).cpu() for _ in range(2))
                    error = relative_error(got, values @ dense.T, values, dense)
                    key = f"{name} {str(dtype).removeprefix('torch.')} m{m} {config}"
                    found[key] = error if torch.equal(got, again) and not on_device.counters.any() else float("nan")
    return found


if __name__ == "__main__":
    device = sys.argv[1] if len(sys.argv) > 1 else "cuda"
    major, minor = torch.cuda.get_device_capability() if device == "cuda" else (9, 0)
    print(json.dumps(errors(device, 10 * major + minor)))
