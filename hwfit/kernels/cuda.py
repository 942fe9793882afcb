"""The GPU backend: what runs on a CUDA device, and chains of distinct copies as one CUDA graph.

    linear      x ─ copy 0 ─ y,  x ─ copy 1 ─ y, …, copy 0 again      distinct weights, rotated past the L2 cache
    attention   distinct key/value caches;  embed  distinct rows of one table;  norm  distinct gains

A chain launches as many copies as it is asked for; only so many of them are distinct as it takes to read `COLD` times
the L2 between two visits of the same weight (a quarter of the free memory at most).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch

from hwfit.errors import HwfitError
from hwfit.kernels import cuda_ops
from hwfit.kernels.cuda_env import current_gpu, driver_versions, first_line, free_memory, memory_guard, package_version
from hwfit.kernels.cuda_graph import Launcher, Work, launcher
from hwfit.kernels.cuda_kit import Kit, TritonKit, embed_why_not, random_table
from hwfit.kernels.cuda_ops import KvCache
from hwfit.kernels.op import Kind, Op, sequences
from hwfit.precision import Precision
from hwfit.rotary import Rotary

COLD = 16
"""L2 sizes read between two visits: the L2 does not evict strictly by age, so 2 would leave some of it warm."""
MEMORY_SHARE = 0.25
EPS = 1e-5
LARGEST_HEAD = 256


class CudaChain:
    """`copies` launches in one graph; `run` queues a replay and returns (time it with the backend's launcher)."""

    def __init__(self, steps: list[Work], copies: int, weight_bytes: int, device: Launcher):
        self.copies, self.weight_bytes, self.distinct = copies, weight_bytes, len(steps)

        def work() -> None:
            for i in range(copies):
                steps[i % len(steps)]()

        self.run = device.capture(work)
        self._steps = steps  # a graph reads the tensors it was captured with


class CudaBackend:
    """One GPU. Raises `HwfitError` where CUDA, triton or the driver do not work together."""

    name = "torch-triton-cuda"
    device = "cuda"

    def __init__(self, kit: Kit, device: Launcher, l2: int, free: Callable[[], int] = free_memory):
        self.kit, self.launcher, self.l2, self._free = kit, device, l2, free
        self._trials: dict[tuple[Kind, str], str | None] = {}

    @classmethod
    def current(cls, dtype: torch.dtype = torch.bfloat16) -> CudaBackend:
        """The current GPU with its kernels, after one tiny kernel has shown that triton and the driver agree."""
        gpu = current_gpu()
        device = torch.device("cuda", gpu.index)
        _check_triton(device)
        return cls(TritonKit(device, gpu.sm, dtype), launcher(device), gpu.l2)

    def why_not(self, op: Op) -> str | None:
        p = Precision.parse(op.precision)
        if op.kind in ("linear", "embed") and p.group and op.k % p.group:
            return f"group size {p.group} of {p} does not divide the input width {op.k}"
        match op.kind:
            case "linear":
                if reason := self.kit.why_not(p, op.k):
                    return reason
            case "embed":
                if reason := embed_why_not(p):
                    return reason
            case "attention":
                if reason := _attention_why_not(op):
                    return reason
        return self._trial(op.kind, op.precision)

    def kernel(self, op: Op) -> str:
        match op.kind:
            case "linear":
                return self.kit.kernel(Precision.parse(op.precision), op.m, op.n, op.k)
            case "attention":
                return "triton rope + torch sdpa (flash)"
        return f"triton {op.kind}" if op.kind != "embed" or not _is_float(op) else "torch embedding"

    def copy_bytes(self, op: Op) -> int:
        size = self.kit.dtype.itemsize
        match op.kind:
            case "linear":
                return self.kit.weight_bytes(Precision.parse(op.precision), op.n, op.k)
            case "embed":
                return Precision.parse(op.precision).weight_bytes(op.m, op.k)
            case "attention":
                return 2 * size * sequences(op)[0] * op.k * op.context * op.head_size
            case "norm":
                return size * op.k
        return 0

    def distinct(self, op: Op, copies: int) -> int:
        """How many of `copies` launches get weights of their own."""
        each = self.copy_bytes(op)
        if op.kind == "embed" or not each:
            return copies
        room = max(1, int(MEMORY_SHARE * self._free() / each))
        return max(1, min(copies, math.ceil(COLD * self.l2 / each), room))

    def resident_bytes(self, op: Op, copies: int) -> int:
        """Bytes that a chain keeps on the device, activations not counted."""
        if op.kind == "embed":
            return Precision.parse(op.precision).weight_bytes(op.n, op.k)
        return self.distinct(op, copies) * self.copy_bytes(op)

    def build(self, op: Op, copies: int, seed: int) -> CudaChain:
        if reason := self.why_not(op):
            raise HwfitError(f"{op} does not run on {self.name}: {reason}")
        need = self.resident_bytes(op, copies)
        remedy = "free the GPU's memory, or profile a smaller model or fewer rows"
        with memory_guard(f"a chain of {op}", need, remedy), torch.no_grad():
            steps = _STEPS[op.kind](op, self.distinct(op, copies), seed, self.kit)
            return CudaChain(steps, copies, copies * self.copy_bytes(op), self.launcher)

    def fingerprint(self) -> dict[str, str]:
        driver, speaks = driver_versions() or ("unknown", "unknown")
        return {
            "backend": self.name,
            "torch": torch.__version__,
            "triton": package_version("triton"),
            "cuda": torch.version.cuda or "none",
            "driver": driver,
            "driver_cuda": speaks,
            "activations": str(self.kit.dtype).removeprefix("torch."),
        }

    def _trial(self, kind: Kind, precision: str) -> str | None:
        """Runs a tiny op of a kind and precision once: what does not compile or launch here is refused in words."""
        key = (kind, precision)
        if key not in self._trials:
            k = 2 * (Precision.parse(precision).group or 128)
            op = Op(kind, 1, 2, 2, head_size=16, context=2) if kind == "attention" else Op(kind, 1, 256, k, precision)
            try:
                with torch.no_grad():
                    _STEPS[kind](op, 1, 0, self.kit)[0]()
                self.launcher.wait()
                self._trials[key] = None
            except Exception as error:  # triton and the driver raise many types of their own
                self._trials[key] = f"its kernel fails here ({first_line(error)})"
        return self._trials[key]


def _attention_why_not(op: Op) -> str | None:
    if op.m > op.context and op.m % op.context:
        return f"{op.m} new tokens are no whole number of sequences of {op.context} tokens"
    if op.head_size % 8 or op.head_size > LARGEST_HEAD:
        return f"flash attention takes head sizes that are multiples of 8 up to {LARGEST_HEAD}, not {op.head_size}"
    return None


def _is_float(op: Op) -> bool:
    return Precision.parse(op.precision).is_float


def _linear(op: Op, count: int, seed: int, kit: Kit) -> list[Work]:
    p = Precision.parse(op.precision)
    x = _normal((op.m, op.k), kit, seed)
    return [partial(kit.linear, x, kit.random(op.n, op.k, p, 1000 * seed + i)) for i in range(count)]


def _embed(op: Op, count: int, seed: int, kit: Kit) -> list[Work]:
    table = random_table(op.n, op.k, Precision.parse(op.precision), kit, seed)
    generator = torch.Generator(kit.device).manual_seed(seed)
    ids = torch.randint(0, op.n, (count, op.m), device=kit.device, generator=generator)
    return [partial(cuda_ops.embed, table, row, kit.dtype) for row in ids]


def _attention(op: Op, count: int, seed: int, kit: Kit) -> list[Work]:
    """Each copy rotates its new tokens into a cache of its own and attends to it."""
    batch, tokens = sequences(op)
    heads, kv, size = op.n, op.k, op.head_size
    rotary = cuda_ops.rotary_tables(Rotary(), size, op.context, kit.device)
    q, k, v = (_normal((batch * tokens, h * size), kit, seed + i) for i, h in enumerate((heads, kv, kv)))

    def step(cache: KvCache) -> torch.Tensor:
        rotated = cuda_ops.rope_store(q, k, v, rotary, cache, op.context - tokens)
        return cuda_ops.attend(rotated, cache, op.context)

    shape = (batch, op.context, kv, size)
    pairs = [(_normal(shape, kit, seed + 2 * i), _normal(shape, kit, seed + 2 * i + 1)) for i in range(count)]
    return [partial(step, KvCache(*pair)) for pair in pairs]


def _norm(op: Op, count: int, seed: int, kit: Kit) -> list[Work]:
    stream, branch = (_normal((op.m, op.k), kit, seed + i) for i in range(2))
    gains = 1 + 0.1 * _normal((count, op.k), kit, seed + 2)
    return [partial(cuda_ops.add_norm, stream, branch, gain, EPS) for gain in gains]


def _swiglu(op: Op, count: int, seed: int, kit: Kit) -> list[Work]:
    gate, up = (_normal((op.m, op.k), kit, seed + i) for i in range(2))
    return [partial(cuda_ops.swiglu, gate, up)] * count


_STEPS: dict[Kind, Callable[[Op, int, int, Kit], list[Work]]] = {
    "linear": _linear,
    "embed": _embed,
    "attention": _attention,
    "norm": _norm,
    "swiglu": _swiglu,
}


def _normal(shape: tuple[int, ...], kit: Kit, seed: int) -> torch.Tensor:
    generator = torch.Generator(kit.device).manual_seed(seed)
    return torch.randn(shape, dtype=kit.dtype, device=kit.device, generator=generator)


def _check_triton(device: torch.device) -> None:
    """Raises `HwfitError` if triton cannot compile for, or launch on, this GPU and driver."""
    one = torch.ones(1, 64, dtype=torch.bfloat16, device=device)
    try:
        cuda_ops.swiglu(one, one)
        torch.cuda.synchronize(device)
    except Exception as error:  # triton, ptxas and the driver raise many types of their own
        driver, speaks = driver_versions() or ("unknown", "unknown")
        raise HwfitError(
            f"--device cuda: triton {package_version('triton')} compiles no kernel that driver {driver} (CUDA "
            f"{speaks}) runs: {first_line(error)}; update the driver, or install the triton that torch "
            f"{torch.__version__} asks for (`pip show torch` names it)"
        ) from error
