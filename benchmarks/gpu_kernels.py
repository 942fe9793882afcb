"""Linears of Llama-3.1-8B and 3.2-1B on a GPU: our kernels beside cuBLAS bf16, gemlite and torchao, in turns.

Figures of `w4a16.m1.4096x14336` (rows, outputs x inputs): `us`; `copy_share`, weight and activation bytes over what a
device-to-device copy moves in that time; `peak_share`, operations over the bf16 peak; `roofline_share`, the least time
by both over the measured one; `over_cublas`, `over_gemlite`, `over_torchao`, how many times faster than they.
"""

from __future__ import annotations

import math
from argparse import Namespace
from functools import partial

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.common import parser
from benchmarks.gpu_common import ROUNDS, Limits, chain, gpu, limits, publish, run, times, watch
from benchmarks.gpu_contestants import OURS, Contestant, contestants, short
from hwfit.errors import nearest, raise_all
from hwfit.kernels.cuda import COLD, CudaBackend, CudaChain
from hwfit.kernels.cuda_env import first_line
from hwfit.kernels.op import linear
from hwfit.precision import Precision
from hwfit.profiler.clock import Timer
from hwfit.profiler.sizing import GPU_BYTES, GPU_KERNEL, GPU_MULTIPLIES, GPU_PASS
from hwfit.progress import track

SHAPES = {
    "llama-3.1-8b": ((1024, 4096), (4096, 4096), (14336, 4096), (4096, 14336), (128_256, 4096)),
    "llama-3.2-1b": ((512, 2048), (2048, 2048), (8192, 2048), (2048, 8192), (128_256, 2048)),
}
"""(outputs, inputs) of k/v, q/o, gate/up, down and the LM head."""
ROWS = (1, 16, 128, 2048)
MOST = 256
OWN = ("ours", "cublas")
RIVALS = ("cublas", "gemlite", "torchao", "torchao_eager")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--models", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    arguments.add_argument("--rows", nargs="+", type=int, default=list(ROWS))
    arguments.add_argument("--precisions", nargs="+", default=list(OURS))
    arguments.add_argument("--only", nargs="+", default=[], help="shapes such as 4096x14336")
    arguments.add_argument("--rounds", type=int, default=ROUNDS)
    arguments.add_argument("--compile", action="store_true", help="torch.compile torchao's int8 layers (slow to make)")
    options = arguments.parse_args()
    shapes = _shapes(options)
    for name in options.precisions:
        Precision.parse(name)
    backend = gpu()
    timer = watch(backend)
    ceilings = limits(backend, timer)
    figures = {"copy.tb_s": ceilings.copy / 1e12, "peak.bf16_tflops": ceilings.peak / 1e12}
    everyone = contestants(backend.kit, tuple(options.precisions), options.compile)
    table = Table("cell", "us", "roofline", "copy", "peak", *(f"over {rival}" for rival in RIVALS))
    left_out: dict[str, str] = {}
    with track(len(shapes) * len(options.rows), "Timing") as advance:
        for n, k in shapes:
            for m in options.rows:
                found = _cell(m, n, k, everyone, backend, timer, options.rounds, left_out)
                figures |= _figures(backend, m, n, k, found, ceilings, table)
                advance(note=f"m={m} {n}x{k}")
    figures |= {f"{short(p)}.worst_error": e for p, e in _errors(backend, options.precisions).items()}
    console = Console()
    console.print(table)
    for name, reason in left_out.items():
        console.print(f"left out: {name}: {reason}")
    told = {name: value for name, value in figures.items() if name.count(".") < 2}
    console.print({name: f"{value:.3g}" for name, value in told.items()})
    publish("gpu_kernels", figures, options.json, show=False)


def _shapes(options: Namespace) -> list[tuple[int, int]]:
    """Distinct shapes of the models asked for. Raises `HwfitError` for those that none of them has."""
    every = dict.fromkeys(shape for model in options.models for shape in SHAPES[model])
    names = {f"{n}x{k}": (n, k) for n, k in every}
    foreign = [name for name in options.only if name not in names]
    raise_all([f"--only {name} is no shape of these models; {nearest(name, names)}" for name in foreign])
    return [names[name] for name in options.only] or list(every)


def _cell(
    m: int,
    n: int,
    k: int,
    everyone: list[Contestant],
    backend: CudaBackend,
    timer: Timer,
    rounds: int,
    left_out: dict[str, str],
) -> dict[tuple[str, str], float]:
    """Seconds a call by (precision, who), all in turns. Who fails on this shape is named in `left_out`."""
    chains: dict[str, CudaChain] = {}
    by_name = {c.name: c for c in everyone}
    for contestant in everyone:
        reason = _refused(contestant, m, n, k, backend)
        if not reason:
            try:
                chains[contestant.name] = _chain(contestant, m, n, k, backend)
                continue
            except Exception as error:  # other packages raise many types of their own
                if contestant.who in OWN:
                    raise
                reason = first_line(error)
                torch.cuda.synchronize()
        left_out[f"{contestant.name} m={m} {n}x{k}"] = reason
    return {(by_name[name].precision, by_name[name].who): s for name, s in times(chains, timer, rounds).items()}


def _refused(contestant: Contestant, m: int, n: int, k: int, backend: CudaBackend) -> str | None:
    if contestant.who not in OWN:
        return None
    name = next((p for p in ("w16a16", *OURS) if short(p) == contestant.precision), contestant.precision)
    return backend.why_not(linear(m, n, k, name))


def _chain(contestant: Contestant, m: int, n: int, k: int, backend: CudaBackend) -> CudaChain:
    """Distinct copies past `COLD` times the L2, launched for a millisecond at least."""
    moved, multiplies = _moved(backend, contestant.precision, m, n, k), m * n * k
    distinct = max(1, min(MOST, math.ceil(COLD * backend.l2 / _weight_bytes(backend, contestant.precision, n, k))))
    least = max(GPU_KERNEL, moved / GPU_BYTES, multiplies / GPU_MULTIPLIES)
    launches = max(2, min(MOST, max(distinct, math.ceil(GPU_PASS / least))))
    x = torch.randn(m, k, dtype=backend.kit.dtype, device=backend.kit.device)
    with torch.no_grad():
        first = contestant.make(n, k, 0)
        first(x)  # compiles and tunes; what does not run fails before a graph is captured
        layers = [first, *(contestant.copy(first, n, k, seed) for seed in range(1, min(distinct, launches)))]
    return chain([partial(layer, x) for layer in layers], launches, backend)


def _figures(
    backend: CudaBackend,
    m: int,
    n: int,
    k: int,
    found: dict[tuple[str, str], float],
    ceilings: Limits,
    table: Table,
) -> dict[str, float]:
    """Figures of our kernels and of cuBLAS, each against its rivals at the same precision."""
    out: dict[str, float] = {}
    for (precision, who), seconds in found.items():
        if who not in OWN:
            continue
        cell, moved, operations = f"{precision}.m{m}.{n}x{k}", _moved(backend, precision, m, n, k), 2 * m * n * k
        shares = {
            "roofline_share": ceilings.seconds(moved, operations) / seconds,
            "copy_share": moved / seconds / ceilings.copy,
            "peak_share": operations / seconds / ceilings.peak,
        }
        rivals = {"cublas": found.get(("w16a16", "cublas"))}
        rivals |= {rival: found.get((precision, rival)) for rival in RIVALS[1:]}
        over = {rival: theirs / seconds for rival, theirs in rivals.items() if theirs and who == "ours"}
        out |= {f"{cell}.us": seconds * 1e6, **{f"{cell}.{name}": share for name, share in shares.items()}}
        out |= {f"{cell}.over_{rival}": ratio for rival, ratio in over.items()}
        told = [f"{over[rival]:.2f}" if rival in over else "" for rival in RIVALS]
        table.add_row(cell, f"{seconds * 1e6:.1f}", *(f"{share:.0%}" for share in shares.values()), *told)
    return out


def _errors(backend: CudaBackend, precisions: list[str]) -> dict[str, float]:
    """Worst ‖y - reference‖ / ‖reference‖ against the dequantised weight in fp32, activations not rounded."""
    from hwfit.kernels.triton_pack import dequantise_gpu

    worst: dict[str, float] = {}
    for name in precisions:
        p = Precision.parse(name)
        for m, n, k in ((1, 4096, 14336), (16, 1024, 4096), (300, 2048, 8192)):
            if backend.why_not(linear(m, n, k, name)):
                continue
            w = backend.kit.random(n, k, p, seed=m)
            x = torch.randn(m, k, dtype=backend.kit.dtype, device=backend.kit.device)
            expected = x.double() @ dequantise_gpu(w).double().T
            got = backend.kit.linear(x, w).double()
            worst[name] = max(worst.get(name, 0.0), float((got - expected).norm() / expected.norm()))
    return worst


def _weight_bytes(backend: CudaBackend, precision: str, n: int, k: int) -> int:
    """Bytes of the weight as our kernels pack it; rivals at the same precision are close to it."""
    name = next((p for p in ("w16a16", *OURS) if short(p) == precision), precision)
    return backend.kit.weight_bytes(Precision.parse(name), n, k)


def _moved(backend: CudaBackend, precision: str, m: int, n: int, k: int) -> int:
    """Bytes that a call must move: the weight once, 16-bit activations in and out."""
    return _weight_bytes(backend, precision, n, k) + 2 * m * (n + k)


if __name__ == "__main__":
    run(main)
