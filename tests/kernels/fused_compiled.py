"""Compiles every kernel of `cuda_fused` for `sm_<argument>` without a GPU; prints name -> [shared, spilled bytes]."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hwfit.kernels import cuda_fused

P, F, INT = "*bf16", "*fp32", "i32"
ROPE = {**dict.fromkeys(("q", "k", "v", "out", "keys", "values"), P), "cos": F, "sin": F}
ROPE |= dict.fromkeys(("heads", "kv_heads", "half", "tokens", "length", "start"), INT)
EMBED = {"scales": F, "ids": "*i64", "out": P, "width": INT, "groups": INT, "group": INT}
NORM = {"stream": P, "branch": P, "gain": P, "out": P, "width": INT, "eps": "fp32"}
CASES = {
    "add_norm": (cuda_fused._add_norm_kernel, NORM, {"HAS_BRANCH": True, "BLOCK": 4096}, 16),
    "add_norm 16384": (cuda_fused._add_norm_kernel, NORM, {"HAS_BRANCH": True, "BLOCK": 16384}, 16),
    "swiglu": (cuda_fused._swiglu_kernel, {"gate": P, "up": P, "out": P, "count": INT}, {"BLOCK": 1024}, 4),
    "rope": (cuda_fused._rope_store_kernel, ROPE, {"HEADS": 8, "HALF": 64}, 2),
    "embed8": (
        cuda_fused._embed_kernel,
        {"codes": "*i8", "zeros": F, **EMBED},
        {"BITS": 8, "ZEROS": False, "BLOCK": 1024},
        4,
    ),
    "embed4": (
        cuda_fused._embed_kernel,
        {"codes": "*u8", "zeros": "*u8", **EMBED},
        {"BITS": 4, "ZEROS": True, "BLOCK": 1024},
        4,
    ),
    "embed2": (
        cuda_fused._embed_kernel,
        {"codes": "*u8", "zeros": "*u8", **EMBED},
        {"BITS": 2, "ZEROS": True, "BLOCK": 1024},
        4,
    ),
}

found = {}
for name, (kernel, types, constants, warps) in CASES.items():
    signature = {a: types.get(a, "constexpr") for a in kernel.arg_names}
    source = ASTSource(kernel, signature, constants)
    compiled = triton.compile(source, GPUTarget("cuda", int(sys.argv[1]), 32), options={"num_warps": warps})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    spilled = sum(int(size) for size in re.findall(r"(?:STACK|LOCAL):(\d+)", usage))
    assert "REG:" in usage
    found[name] = [compiled.metadata.shared, spilled]
print(json.dumps(found))
