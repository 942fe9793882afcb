"""Every Triton linear kernel at every configuration that autotuning may try, compiled for sm_80 and sm_90, no GPU.

Shapes are those of Llama-3.1-8B and Llama-3.2-1B; launches that differ in nothing a compiler sees count once.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from benchmarks.common import parser, publish
from hwfit.errors import HwfitError
from hwfit.kernels.triton_configs import SHARED_MEMORY, candidates
from hwfit.kernels.triton_linear import why_not
from hwfit.kernels.triton_pack import GpuWeight, random_gpu_weight
from hwfit.precision import KNOWN, Precision
from hwfit.progress import track

TARGETS = (80, 90)
ROWS = (1, 16, 64, 128, 2048)
SHAPES = (  # n, k
    *((4096, 4096), (1024, 4096), (14336, 4096), (4096, 14336), (128256, 4096)),
    *((2048, 2048), (512, 2048), (8192, 2048), (2048, 8192), (128256, 2048)),
)
POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int8: "*i8",
    torch.uint8: "*u8",
}


@dataclass(frozen=True)
class Job:
    """One compilation. `arguments` is (name, type, divisible by 16) of each runtime argument."""

    kernel: Any
    sm: int
    arguments: tuple[tuple[str, str, bool], ...]
    constants: tuple[tuple[str, Any], ...]
    warps: int
    stages: int
    max_registers: int

    def __str__(self) -> str:
        constants = " ".join(f"{name}={value}" for name, value in self.constants)
        types = ",".join(dict.fromkeys(type_ for _, type_, _ in self.arguments if "fp" in type_ or type_ == "*bf16"))
        settings = f"warps={self.warps} stages={self.stages} maxnreg={self.max_registers}"
        return f"sm_{self.sm} {self.kernel.__name__}({types}) {constants} {settings}"


@dataclass(frozen=True)
class Usage:
    registers: int
    spilled: int  # bytes of stack and local memory a thread
    shared: int  # bytes a program


def jobs() -> list[Job]:
    """All distinct compilations."""
    from hwfit.kernels.triton_launch import launch, recording

    found: dict[Job, None] = {}
    for sm, name, dtype in product(TARGETS, KNOWN, (torch.float16, torch.bfloat16)):
        p = Precision.parse(name)
        for (n, k), m in product(SHAPES, ROWS):
            if p.weight_bits >= 16 or why_not(p, sm, k):
                continue
            w = random_gpu_weight(n, k, p, dtype, "meta")
            assert isinstance(w, GpuWeight)
            x = torch.empty(m, k, dtype=dtype, device="meta")
            for config in candidates(m, n, k, p, sm):
                with recording() as launches:
                    launch(x, w, config)
                found.update(dict.fromkeys(_job(one, sm) for one in launches))
    return list(found)


def _job(launch: Any, sm: int) -> Job:
    parameters = [p for p in launch.kernel.params if not p.is_constexpr]
    arguments = []
    for parameter, value in zip(parameters, launch.arguments, strict=True):
        if isinstance(value, torch.Tensor):
            arguments.append((parameter.name, POINTERS[value.dtype], True))
        else:
            divisible = value % 16 == 0 and not parameter.do_not_specialize
            arguments.append((parameter.name, "i32", divisible))
    constants, c = tuple(sorted(launch.constants.items())), launch.config
    return Job(launch.kernel, sm, tuple(arguments), constants, c.warps, c.stages, c.registers)


def compile_job(job: Job) -> Usage:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as triton_compile

    signature: dict[str, str] = {name: type_ for name, type_, _ in job.arguments}
    signature |= {name: "constexpr" for name, _ in job.constants}
    signature = {name: signature[name] for name in job.kernel.arg_names}
    position = {name: i for i, name in enumerate(job.kernel.arg_names)}
    attributes = {(position[name],): [["tt.divisibility", 16]] for name, _, divisible in job.arguments if divisible}
    source = ASTSource(job.kernel, signature, dict(job.constants), attributes)
    options = {"num_warps": job.warps, "num_stages": job.stages, "maxnreg": job.max_registers or None}
    compiled = triton_compile(source, target=GPUTarget("cuda", job.sm, 32), options=options)
    return usage(compiled.asm["cubin"], compiled.metadata.shared)


def usage(cubin: bytes, shared: int) -> Usage:
    """What cuobjdump (it comes with triton) reads in a compiled kernel."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    values = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return Usage(values["REG"], values["STACK"] + values["LOCAL"], shared)


def sample(everything: list[Job], count: int | None) -> list[Job]:
    """`count` of them, evenly spread; all by default."""
    if count is None or count >= len(everything):
        return everything
    return [everything[i * len(everything) // count] for i in range(count)]


def check(chosen: list[Job]) -> Iterator[tuple[Job, Usage]]:
    with track(len(chosen), "compile") as advance:
        for job in chosen:
            yield job, compile_job(job)
            advance()


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--sample", type=int, help="compile only this many, evenly spread over all")
    arguments.add_argument("--only", default="", help="compile only jobs whose description matches this expression")
    arguments.add_argument("--list", action="store_true", help="print every job with its registers and shared memory")
    options = arguments.parse_args()
    try:
        import triton  # noqa: F401
    except ImportError:
        raise HwfitError("triton is not installed; pip install 'hwfit[gpu]'") from None
    chosen = sample([job for job in jobs() if re.search(options.only, str(job))], options.sample)
    results: dict[Job, Usage] = {}
    for job, used in check(chosen):
        results[job] = used
        over = used.shared > SHARED_MEMORY[job.sm]
        if options.list or used.spilled or over:
            flags = f"{' SPILLS' if used.spilled else ''}{' OVER' if over else ''}"
            print(f"{job}: {used.registers} registers, {used.spilled} spilled, {used.shared} shared{flags}", flush=True)
    figures = {
        "configs": len(results),
        "spilling": sum(u.spilled > 0 for u in results.values()),
        "over_shared_memory": sum(u.shared > SHARED_MEMORY[job.sm] for job, u in results.items()),
        "registers.max": max((u.registers for u in results.values()), default=0),
        "shared.max.sm80": max((u.shared for job, u in results.items() if job.sm == 80), default=0),
        "shared.max.sm90": max((u.shared for job, u in results.items() if job.sm == 90), default=0),
    }
    publish("kernel_compile", figures, options.json)
    if figures["spilling"] or figures["over_shared_memory"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
