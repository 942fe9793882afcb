"""Node builders for ONNX Runtime's CPU provider: which kernel runs what, with its weights in that kernel's layout.

Every builder returns the nodes and their weights as named arrays; `ort_session` turns both into
a graph. Values named in `SHARED` are graph inputs or arrays that all attention nodes read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, helper
from torch import Tensor

from hwfit.errors import HwfitError
from hwfit.kernels.pack import Array, Arrays, to_dynamic, to_gather, to_nbits
from hwfit.kernels.quantise import Quantised
from hwfit.precision import Precision

MS = "com.microsoft"
SHARED = ("seqlens_k", "total_length", "cos_cache", "sin_cache")
HEAD_SIZE_MULTIPLE = 16  # GroupQueryAttention refuses other head sizes when it applies the rotary embedding

Part = tuple[list[NodeProto], Arrays]
Layout = dict[str, tuple[tuple[int, ...], type]]  # array name -> shape, dtype


def linear_kernel(p: Precision) -> str:
    """The ONNX Runtime op that runs a linear at `p`."""
    return "MatMul" if p.is_float else "MatMulNBits" if p.group else "DynamicQuantizeMatMul"


def linear_layout(p: Precision, n: int, k: int) -> Layout:
    """Shapes and types of the arrays `linear_nodes` makes from a `[n, k]` weight, in input order."""
    if p.is_float:
        return {"weight": ((k, n), np.float32)}
    if not p.group:
        return {"codes": ((k, n), np.int8), "scales": ((n,), np.float32)}
    groups, bits = k // p.group, p.weight_bits
    layout: Layout = {
        "blob": ((n, groups, p.group * bits // 8), np.uint8),
        "scales": ((n, groups), np.float32),
    }
    return layout if p.symmetric else {**layout, "zeros": ((n, -(-groups * bits // 8)), np.uint8)}


def linear_node(name: str, x: str, y: str, p: Precision, n: int, k: int) -> NodeProto:
    """`x[..., k] -> y[..., n]`, reading the arrays `<name>.<layout key>`."""
    inputs = [x, *(f"{name}.{key}" for key in linear_layout(p, n, k))]
    kernel = linear_kernel(p)
    if kernel == "MatMul":
        return helper.make_node(kernel, inputs, [y], name=name)
    if kernel == "DynamicQuantizeMatMul":
        return helper.make_node(kernel, inputs, [y], name=name, domain=MS)
    # accuracy_level 4: activations become int8, the only fast path on this provider
    sizes: dict[str, Any] = {"K": k, "N": n, "bits": p.weight_bits, "block_size": p.group, "accuracy_level": 4}
    return helper.make_node(kernel, inputs, [y], name=name, domain=MS, **sizes)


def linear_nodes(name: str, x: str, y: str, weight: Tensor | Quantised) -> Part:
    """`y = x @ weight.T` for a `[n, k]` weight; a plain fp32 tensor runs in fp32.

    Raises `HwfitError` for precisions the provider cannot run (fp16, 3 bits, 16-bit activations).
    """
    n, k = weight.shape
    p = _precision(weight)
    if reason := precision_why_not(p):
        raise HwfitError(f"{name}: {p} does not run on ONNX Runtime's CPU provider: {reason}")
    if not isinstance(weight, Quantised):
        arrays = {"weight": np.ascontiguousarray(weight.detach().float().numpy().T)}
    else:
        arrays = to_nbits(weight) if p.group else to_dynamic(weight)
    return [linear_node(name, x, y, p, n, k)], {f"{name}.{key}": a for key, a in arrays.items()}


def precision_why_not(p: Precision) -> str | None:
    """Why a linear at `p` does not run here, or None. Measured on ONNX Runtime 1.32."""
    if p.float8:
        return "there is no fp8 MatMul kernel; use w8a8"
    if p.weight_bits == 16:
        return "there is no fp16 MatMul kernel, only a cast to fp32 at fp32 speed; use w32, or w8a8"
    if p.weight_bits == 3:
        return "MatMulNBits takes 2, 4 or 8 bits, not 3; use w4a8 or w2a8 in groups"
    if p.act_bits < 8:
        return f"MatMulNBits rounds activations to 8 bits, not {p.act_bits}; use {_runs_instead(p)}"
    if p.act_bits == 16 and not p.is_float:
        return (
            "with 16-bit activations MatMulNBits dequantises to fp32 on every call, up to 800x slower; "
            f"use {_runs_instead(p)}"
        )
    return _narrow_why_not(p)


def _narrow_why_not(p: Precision) -> str | None:
    if p.group is None and p.weight_bits < 8:
        return (
            f"{p.weight_bits}-bit kernels take one scale per group of inputs, not per channel; use {_runs_instead(p)}"
        )
    return None


def _runs_instead(p: Precision) -> str:
    """The nearest precision with kernels here."""
    return f"w{p.weight_bits}a8g{p.group}" if p.group else "w8a8" if p.weight_bits == 8 else f"w{p.weight_bits}a8g32"


def embed_layout(p: Precision, n: int, k: int) -> Layout:
    """Shapes and types of the arrays `embed_nodes` makes from a `[n, k]` table, in input order."""
    if p.is_float:
        return {"table": ((n, k), np.float16 if p.weight_bits == 16 else np.float32)}
    groups, bits = k // p.group if p.group else 1, p.weight_bits
    if not p.group:
        return {"codes": ((n, k), np.int8), "scales": ((n, 1), np.float32)}
    layout: Layout = {"data": ((n, k * bits // 8), np.uint8), "scales": ((n, groups), np.float32)}
    return layout if p.symmetric else {**layout, "zeros": ((n, -(-groups * bits // 8)), np.uint8)}


def embed_graph(name: str, table: str, ids: str, y: str, p: Precision) -> list[NodeProto]:
    """Rows `ids` of the arrays `<table>.<layout key>` as fp32 `y[..., hidden]`.

    Groups run GatherBlockQuantized; one scale per row gathers codes and scales; floats gather, fp16 also casts.
    """
    if p.group:
        data, *rest = [f"{table}.{key}" for key in embed_layout(p, 1, p.group)]
        sizes: dict[str, Any] = {"bits": p.weight_bits, "block_size": p.group, "gather_axis": 0, "quantize_axis": 1}
        return [helper.make_node("GatherBlockQuantized", [data, ids, *rest], [y], name=name, domain=MS, **sizes)]
    rows, scale, wide = f"{name}.rows", f"{name}.scale", f"{name}.wide"
    if p.is_float:
        gathered = y if p.weight_bits == 32 else rows
        nodes = [helper.make_node("Gather", [f"{table}.table", ids], [gathered], name=name)]
        return nodes if gathered == y else [*nodes, helper.make_node("Cast", [rows], [y], name=f"{name}.cast", to=1)]
    return [
        helper.make_node("Gather", [f"{table}.codes", ids], [rows], name=name),
        helper.make_node("Gather", [f"{table}.scales", ids], [scale], name=scale),
        helper.make_node("Cast", [rows], [wide], name=wide, to=1),
        helper.make_node("Mul", [wide, scale], [y], name=f"{name}.mul"),
    ]


def embed_nodes(name: str, ids: str, y: str, weight: Tensor | Quantised) -> Part:
    """`embed_graph` with its arrays from a `[vocab, hidden]` table. Raises `HwfitError` for 3-bit tables."""
    p = _precision(weight)
    if reason := embed_why_not(p):
        raise HwfitError(f"{name}: {p} does not run on ONNX Runtime's CPU provider: {reason}")
    if not isinstance(weight, Quantised):
        arrays = {"table": weight.detach().numpy()}
    else:
        arrays = to_gather(weight) if p.group else {"codes": weight.codes.numpy(), "scales": weight.grid.scales.numpy()}
    return embed_graph(name, name, ids, y, p), {f"{name}.{key}": a for key, a in arrays.items()}


def _precision(weight: Tensor | Quantised) -> Precision:
    if isinstance(weight, Quantised):
        return weight.precision
    return Precision.parse("w16a16" if weight.element_size() == 2 else "w32")


def embed_why_not(p: Precision) -> str | None:
    """Why an embedding at `p` does not run here, or None."""
    if p.weight_bits == 3:
        return "GatherBlockQuantized takes 2, 4 or 8 bits, not 3; use w4a8 or w2a8 in groups"
    if p.float8:
        return "there is no gather that scales fp8 rows; use w8a8"
    return _narrow_why_not(p)


@dataclass(frozen=True)
class Cache:
    """Names of one block's key/value cache, `[batch, kv_heads, length, head_size]`.

    Bind past and present to one OrtValue: attention then writes the new tokens in place.
    """

    past_key: str
    past_value: str
    present_key: str
    present_value: str

    @classmethod
    def of(cls, i: int) -> Cache:
        return cls(f"past.{i}.key", f"past.{i}.value", f"present.{i}.key", f"present.{i}.value")


def attention_nodes(name: str, q: str, k: str, v: str, y: str, cache: Cache, heads: int, kv_heads: int) -> Part:
    """Causal grouped-query attention with rotary embedding; `q, y [batch, m, heads * head_size]`, `k, v` likewise.

    The softmax scale is 1 / sqrt(head_size); `SHARED` values say where the new tokens stand.
    """
    inputs = [q, k, v, cache.past_key, cache.past_value, *SHARED]
    outputs = [y, cache.present_key, cache.present_value]
    sizes: dict[str, Any] = {"num_heads": heads, "kv_num_heads": kv_heads, "do_rotary": 1}
    return [helper.make_node("GroupQueryAttention", inputs, outputs, name=name, domain=MS, **sizes)], {}


def norm_nodes(name: str, x: str, y: str, gain: Array, eps: float, skip: str | None = None, total: str = "") -> Part:
    """RMSNorm `y = x / rms(x) * gain`; with `skip`, of `x + skip`, which is also written to `total` if named."""
    arrays = {f"{name}.gain": gain}
    if skip is None:
        attributes = {"epsilon": eps, "axis": -1, "stash_type": 1}
        return [
            helper.make_node("SimplifiedLayerNormalization", [x, f"{name}.gain"], [y], name=name, **attributes)
        ], arrays
    outputs = [y, "", "", total] if total else [y]
    inputs = [x, skip, f"{name}.gain"]
    node = helper.make_node("SkipSimplifiedLayerNormalization", inputs, outputs, name=name, domain=MS, epsilon=eps)
    return [node], arrays


def swiglu_nodes(name: str, gate: str, up: str, y: str) -> Part:
    """`y = silu(gate) * up`; QuickGelu with alpha 1 is silu, twice as fast here as Sigmoid and Mul."""
    silu = f"{name}.silu"
    return [
        helper.make_node("QuickGelu", [gate], [silu], name=silu, domain=MS, alpha=1.0),
        helper.make_node("Mul", [silu, up], [y], name=name),
    ], {}
