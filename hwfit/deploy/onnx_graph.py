"""ONNX: one graph per bundle, for prefill and decode, with a key/value cache and each linear at its own precision.

    inputs   input_ids    int64 [batch, seq]      the new tokens
             seqlens_k    int32 [batch]           tokens in the cache after this call, less one
             total_length int32 []                the largest of them, not less one
             logits_from  int64 [1]               first position whose logits are wanted: 0 all, -1 the last
             past.<i>.key, past.<i>.value         fp32 [batch, kv_heads, length, head_size]
    outputs  logits                               fp32 [batch, positions, vocab]
             present.<i>.key, present.<i>.value   bind them to the OrtValues of past: tokens are written in place

`length` is free up to `max_context`. The file's metadata holds the subnet and `max_context`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from hwfit.deploy.bundle import Bundle
from hwfit.deploy.config_check import config_problems
from hwfit.deploy.slice import EMBED, FINAL_NORM, LM_HEAD, module_name
from hwfit.errors import raise_all
from hwfit.files import replacing
from hwfit.kernels import ort_cpu
from hwfit.kernels.ort_cpu import Cache, Part
from hwfit.kernels.ort_session import make_model, value
from hwfit.kernels.pack import Arrays
from hwfit.rotary import Rotary

EXTERNAL_OVER = 1_500_000_000  # bytes; protobuf ends at 2 GiB


def write_onnx(bundle: Bundle, path: Path, max_context: int = 512) -> Path:
    """Writes the graph to `path` (weights over 1.5 GB go to `<path>.data` beside it) and returns `path`.

    Raises `HwfitError` listing every linear whose precision ONNX Runtime's CPU provider cannot run and every part of
    the config that this graph does not implement.
    """
    raise_all(unsupported(bundle, max_context))
    nodes, arrays = _graph(bundle, max_context)
    external = sum(a.nbytes for a in arrays.values()) > EXTERNAL_OVER
    model = _model(bundle, nodes, arrays, external)
    helper.set_model_props(model, {"hwfit.subnet": bundle.subnet.to_json(), "hwfit.max_context": str(max_context)})
    if external:
        _write_data(model, arrays, path.with_name(f"{path.name}.data"))
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return path


def unsupported(bundle: Bundle, max_context: int) -> list[str]:
    """Why this bundle has no ONNX graph, one line each."""
    config, s = bundle.config, bundle.subnet
    problems = config_problems(config, "in ONNX export")
    if s.head_size % ort_cpu.HEAD_SIZE_MULTIPLE:
        problems.append(
            f"subnet: head_size={s.head_size} does not run in GroupQueryAttention; "
            f"allowed: multiples of {ort_cpu.HEAD_SIZE_MULTIPLE}"
        )
    if max_context < 1:
        problems.append(f"max_context={max_context} must be at least 1")
    linears = {n: ort_cpu.precision_why_not(p) for n, (_, _, p) in s.linears.items()}
    problems += [f"{n}: {s.linears[n][2]} does not run: {why}" for n, why in linears.items() if why]
    if why := ort_cpu.embed_why_not(s.embed):
        problems.append(f"embed: {s.embed} does not run: {why}")
    return problems


def _graph(bundle: Bundle, max_context: int) -> tuple[list[NodeProto], Arrays]:
    s, tensors = bundle.subnet, bundle.tensors
    eps = float(bundle.config["rms_norm_eps"])
    nodes: list[NodeProto] = []
    cos, sin = Rotary.of(bundle.config).tables(s.head_size, max_context)
    arrays: Arrays = {"cos_cache": cos, "sin_cache": sin}

    def add(part: Part) -> None:
        nodes.extend(part[0])
        arrays.update(part[1])

    def linear(module: str, x: str) -> str:
        add(ort_cpu.linear_nodes(module, x, f"{module}.y", tensors[f"{module}.weight"]))
        return f"{module}.y"

    def norm(module: str, x: str, skip: str | None = None) -> tuple[str, str]:
        gain = tensors[f"{module}.weight"].float().numpy()  # pyright: ignore[reportAttributeAccessIssue]
        add(ort_cpu.norm_nodes(module, x, f"{module}.y", gain, eps, skip, f"{module}.sum"))
        return f"{module}.y", x if skip is None else f"{module}.sum"

    add(ort_cpu.embed_nodes(EMBED, "input_ids", "embedded", tensors[f"{EMBED}.weight"]))
    stream, branch = "embedded", None  # residual stream [batch, seq, hidden], and what is still to be added to it
    for i in range(len(s.blocks)):
        layer = f"model.layers.{i}"
        x, stream = norm(f"{layer}.input_layernorm", stream, branch)
        q, k, v = (linear(module_name(i, name), x) for name in ("q_proj", "k_proj", "v_proj"))
        attended = f"{layer}.attention"
        add(ort_cpu.attention_nodes(attended, q, k, v, attended, Cache.of(i), s.heads, s.kv_heads))
        x, stream = norm(f"{layer}.post_attention_layernorm", stream, linear(module_name(i, "o_proj"), attended))
        gate, up = (linear(module_name(i, name), x) for name in ("gate_proj", "up_proj"))
        mixed = f"{layer}.swiglu"
        add(ort_cpu.swiglu_nodes(mixed, gate, up, mixed))
        branch = linear(module_name(i, "down_proj"), mixed)
    x, _ = norm(FINAL_NORM, stream, branch)
    arrays |= {"slice.end": np.array([np.iinfo(np.int64).max]), "slice.axis": np.array([1])}
    nodes.append(helper.make_node("Slice", [x, "logits_from", "slice.end", "slice.axis"], ["wanted"], name="wanted"))
    add(ort_cpu.linear_nodes(LM_HEAD, "wanted", "logits", tensors[f"{LM_HEAD}.weight"]))
    return nodes, arrays


def _model(bundle: Bundle, nodes: list[NodeProto], arrays: Arrays, external: bool) -> ModelProto:
    s = bundle.subnet
    inputs = [
        value("input_ids", np.int64, ("batch", "seq")),
        value("seqlens_k", np.int32, ("batch",)),
        value("total_length", np.int32, ()),
        value("logits_from", np.int64, (1,)),
    ]
    outputs = [value("logits", np.float32, ("batch", "positions", s.vocab))]
    for i in range(len(s.blocks)):
        cache, size = Cache.of(i), ("batch", s.kv_heads, "length", s.head_size)
        inputs += [value(name, np.float32, size) for name in (cache.past_key, cache.past_value)]
        outputs += [value(name, np.float32, size) for name in (cache.present_key, cache.present_value)]
    return make_model(nodes, arrays, inputs, outputs, external)


def _write_data(model: ModelProto, arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Writes the external arrays one after another, page-aligned, and points the graph at them."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        for tensor in model.graph.initializer:
            if tensor.data_location != TensorProto.EXTERNAL:
                continue
            array = np.ascontiguousarray(arrays[tensor.name])
            file.seek(math.ceil(file.tell() / 4096) * 4096)
            offset = file.tell()
            file.write(array.data)
            del tensor.external_data[:]
            for key, text in (("location", path.name), ("offset", str(offset)), ("length", str(array.nbytes))):
                tensor.external_data.add(key=key, value=text)
