"""Chains of distinct copies of an op for ONNX Runtime's CPU provider: what the profiler times.

    linear, embed    x ─┬─ copy 0 ─ y      every copy has its own weights; all write the same output buffer, which
                        ├─ copy 1 ─ y      stays in the cache as the arena's buffers do in a model
                        └─ copy 2 ─ y
    attention, norm, swiglu    x ─ copy 0 ─ copy 1 ─ copy 2 ─ y

Weights are random bytes with sane scales: latency depends on sizes, not values. Copies are copied from one random
pool at different offsets: ONNX Runtime would share byte-identical ones, and views of one memory would share the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import onnx
import onnxruntime as ort
from onnx import NodeProto, ValueInfoProto

from hwfit.errors import HwfitError
from hwfit.kernels import ort_cpu
from hwfit.kernels.op import Kind, Op, sequences
from hwfit.kernels.ort_cpu import Cache, Layout
from hwfit.kernels.ort_session import make_model, session, value
from hwfit.kernels.pack import Array, Arrays
from hwfit.precision import Precision
from hwfit.rotary import Rotary

_STEP = 64  # bytes between the beginnings of two copies in the random pool


class OrtChain:
    """A bound session; `run` is one pass over all copies."""

    def __init__(self, parts: _Parts, copies: int, weight_bytes: int):
        self.copies, self.weight_bytes = copies, weight_bytes
        self._arrays = parts.arrays  # the session reads them in place
        self._bound = parts.bound_inputs | parts.bound_outputs
        model = make_model(parts.nodes, parts.arrays, parts.inputs, parts.outputs, external=True)
        self._session = session(model, arrays=parts.arrays)
        self._binding = self._session.io_binding()
        for name, bound in parts.bound_inputs.items():
            self._binding.bind_ortvalue_input(name, bound)
        for name, bound in parts.bound_outputs.items():
            self._binding.bind_ortvalue_output(name, bound)

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)


@dataclass
class _Parts:
    """A chain being put together: graph, weights and what is bound to its inputs and outputs."""

    seed: int
    nodes: list[NodeProto] = field(default_factory=list)
    arrays: Arrays = field(default_factory=dict)
    inputs: list[ValueInfoProto] = field(default_factory=list)
    outputs: list[ValueInfoProto] = field(default_factory=list)
    bound_inputs: dict[str, ort.OrtValue] = field(default_factory=dict)
    bound_outputs: dict[str, ort.OrtValue] = field(default_factory=dict)

    def input(self, name: str, array: Array) -> ort.OrtValue:
        self.inputs.append(value(name, array.dtype.type, array.shape))
        self.bound_inputs[name] = ort.OrtValue.ortvalue_from_numpy(array)
        return self.bound_inputs[name]

    def output(self, name: str, like: ort.OrtValue) -> None:
        self.outputs.append(value(name, np.float32, like.shape()))
        self.bound_outputs[name] = like

    def weights(self, layout: Layout, copies: int) -> None:
        """Arrays `<copy>.<key>` of random bytes."""
        rng = np.random.default_rng(self.seed)
        for key, (shape, dtype) in layout.items():
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            pool = _random_bytes(rng, size + _STEP * copies, dtype)
            for i in range(copies):
                self.arrays[f"{i}.{key}"] = pool[i * _STEP : i * _STEP + size].copy().view(dtype).reshape(shape)


class OrtCpu:
    """ONNX Runtime's CPU provider on one thread."""

    name = "onnxruntime-cpu"
    device = "cpu"

    def why_not(self, op: Op) -> str | None:
        p, allowed = Precision.parse(op.precision), ort_cpu.HEAD_SIZE_MULTIPLE
        if op.kind == "attention":
            if op.head_size % allowed:
                return f"GroupQueryAttention needs a head size that is a multiple of {allowed}, not {op.head_size}"
            if op.m > op.context and op.m % op.context:
                return f"{op.m} new tokens are no whole number of sequences of {op.context} tokens"
        if op.kind in ("linear", "embed"):
            if reason := ort_cpu.precision_why_not(p) if op.kind == "linear" else ort_cpu.embed_why_not(p):
                return reason
            if p.group and op.k % p.group:
                return f"group size {p.group} of {p} does not divide the input width {op.k}"
        return _missing_kernel(self.kernel(op)) or _trial(op.kind, op.precision)

    def kernel(self, op: Op) -> str:
        match op.kind:
            case "linear":
                return ort_cpu.linear_kernel(Precision.parse(op.precision))
            case "embed":
                return "GatherBlockQuantized" if Precision.parse(op.precision).group else "Gather"
        return {"attention": "GroupQueryAttention", "norm": "SkipSimplifiedLayerNormalization", "swiglu": "QuickGelu"}[
            op.kind
        ]

    def copy_bytes(self, op: Op) -> int:
        match op.kind:
            case "linear":
                return Precision.parse(op.precision).weight_bytes(op.n, op.k)
            case "embed":
                return Precision.parse(op.precision).weight_bytes(op.m, op.k)
            case "attention":
                return 2 * 4 * sequences(op)[0] * op.k * op.context * op.head_size
            case "norm":
                return 4 * op.k
        return 0

    def build(self, op: Op, copies: int, seed: int) -> OrtChain:
        if reason := self.why_not(op):
            raise HwfitError(f"{op} does not run on {self.name}: {reason}")
        parts = _Parts(seed)
        _CHAINS[op.kind](parts, op, copies)
        return OrtChain(parts, copies, copies * self.copy_bytes(op))

    def fingerprint(self) -> dict[str, str]:
        return {"backend": self.name, "onnxruntime": ort.__version__, "onnx": onnx.__version__, "numpy": np.__version__}


def _linear(parts: _Parts, op: Op, copies: int) -> None:
    p = Precision.parse(op.precision)
    parts.weights(ort_cpu.linear_layout(p, op.n, op.k), copies)
    parts.input("x", _activations(op.m, op.k))
    y = ort.OrtValue.ortvalue_from_numpy(np.zeros((op.m, op.n), np.float32))
    for i in range(copies):
        parts.nodes.append(ort_cpu.linear_node(str(i), "x", f"y{i}", p, op.n, op.k))
        parts.output(f"y{i}", y)


def _embed(parts: _Parts, op: Op, copies: int) -> None:
    """One table; each copy gathers rows of its own."""
    p = Precision.parse(op.precision)
    parts.weights(ort_cpu.embed_layout(p, op.n, op.k), 1)
    rng = np.random.default_rng(parts.seed)
    y = ort.OrtValue.ortvalue_from_numpy(np.zeros((op.m, op.k), np.float32))
    for i in range(copies):
        parts.input(f"ids{i}", rng.integers(0, op.n, op.m))
        parts.nodes += ort_cpu.embed_graph(f"embed{i}", "0", f"ids{i}", f"y{i}", p)
        parts.output(f"y{i}", y)


def _attention(parts: _Parts, op: Op, copies: int) -> None:
    """Queries pass from copy to copy; each copy has its own key/value cache, `context - m` tokens of it filled."""
    batch, tokens = sequences(op)
    heads, kv, d, length = op.n, op.k, op.head_size, max(op.context, tokens)
    rng = np.random.default_rng(parts.seed)
    x = parts.input("q0", rng.standard_normal((batch, tokens, heads * d), np.float32))
    for name in ("k", "v"):
        parts.input(name, rng.standard_normal((batch, tokens, kv * d), np.float32))
    parts.input("seqlens_k", np.full(batch, length - 1, np.int32))
    parts.input("total_length", np.array(length, np.int32))
    parts.arrays["cos_cache"], parts.arrays["sin_cache"] = Rotary().tables(d, length)
    shape = (batch, kv, length, d)
    pool = rng.standard_normal(int(np.prod(shape)) + copies, np.float32)
    for i in range(copies):
        cache = Cache.of(i)
        nodes, _ = ort_cpu.attention_nodes(str(i), f"q{i}", "k", "v", f"q{i + 1}", cache, heads, kv)
        parts.nodes += nodes
        for past, present in ((cache.past_key, cache.present_key), (cache.past_value, cache.present_value)):
            parts.output(present, parts.input(past, pool[i : i + int(np.prod(shape))].reshape(shape).copy()))
    parts.output(f"q{copies}", ort.OrtValue.ortvalue_from_numpy(np.zeros(x.shape(), np.float32)))


def _norm(parts: _Parts, op: Op, copies: int) -> None:
    """The residual stream and its norm pass from copy to copy."""
    parts.weights({"gain": ((op.k,), np.float32)}, copies)
    x = parts.input("y0", _activations(op.m, op.k))
    parts.input("t0", _activations(op.m, op.k))
    for i in range(copies):
        total = f"t{i + 1}"
        nodes, _ = ort_cpu.norm_nodes(str(i), f"y{i}", f"y{i + 1}", parts.arrays[f"{i}.gain"], 1e-5, f"t{i}", total)
        parts.nodes += nodes
    for name in (f"y{copies}", f"t{copies}"):
        parts.output(name, ort.OrtValue.ortvalue_from_numpy(np.zeros(x.shape(), np.float32)))


def _swiglu(parts: _Parts, op: Op, copies: int) -> None:
    """The gate passes from copy to copy; `up` makes -1 a stable fixed point, so nothing decays to denormals."""
    x = parts.input("y0", np.full((op.m, op.k), -1, np.float32))
    parts.input("up", np.full((op.m, op.k), 1 + np.e, np.float32))
    for i in range(copies):
        parts.nodes += ort_cpu.swiglu_nodes(str(i), f"y{i}", "up", f"y{i + 1}")[0]
    parts.output(f"y{copies}", ort.OrtValue.ortvalue_from_numpy(np.zeros(x.shape(), np.float32)))


_CHAINS: dict[str, Callable[[_Parts, Op, int], None]] = {
    "linear": _linear,
    "embed": _embed,
    "attention": _attention,
    "norm": _norm,
    "swiglu": _swiglu,
}


def _activations(m: int, k: int) -> Array:
    return np.random.default_rng(0).standard_normal((m, k), np.float32)


# which bits of a 32-bit word stay random and which are set, so that floats are ±[2^-7, 2^-6) and halves ±[1, 2)
_SANE = {np.float32: (0x807FFFFF, 0x3C000000), np.float16: (0x83FF83FF, 0x3C003C00)}


def _random_bytes(rng: np.random.Generator, size: int, dtype: type) -> Array:
    """Random uint8 `[size]` that hold no NaN and no denormal when read as `dtype`."""
    words = rng.integers(0, 2**64, -(-size // 8), np.uint64).view(np.uint32)
    if dtype in _SANE:
        keep, put = (np.uint32(bits) for bits in _SANE[dtype])
        words = words & keep | put
    return words.view(np.uint8)[:size]


@cache
def _cpu_kernels() -> frozenset[str]:
    """Every op the installed ONNX Runtime has a CPU kernel for."""
    from onnxruntime.capi import _pybind_state

    kernels = _pybind_state.get_all_opkernel_def()  # pyright: ignore[reportAttributeAccessIssue]
    return frozenset(k.op_name for k in kernels if k.provider == "CPUExecutionProvider")


def _missing_kernel(kernel: str) -> str | None:
    if kernel in _cpu_kernels():
        return None
    return f"onnxruntime {ort.__version__} has no CPU kernel {kernel}; install a newer onnxruntime"


@cache
def _trial(kind: Kind, precision: str) -> str | None:
    """Runs a tiny op of a kind and precision: a kernel's name does not say which bits it takes."""
    k = Precision.parse(precision).group or 32
    op = Op(kind, 1, 2, 2, head_size=16, context=2) if kind == "attention" else Op(kind, 1, 32, k, precision)
    parts = _Parts(0)
    try:
        _CHAINS[kind](parts, op, 1)
        OrtChain(parts, 1, 0).run()
    except Exception as error:  # onnxruntime raises many types of its own
        return f"onnxruntime {ort.__version__} rejects it ({' '.join(str(error).split())[:200]})"
    return None
