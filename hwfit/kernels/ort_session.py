"""Nodes and named arrays -> an ONNX graph -> an ONNX Runtime session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from hwfit.kernels.pack import Arrays

_OPSETS = (("", 21), ("com.microsoft", 1))
_INLINE = 1024  # arrays up to this many bytes stay inside the graph, where shape inference wants them
PROVIDER = "CPUExecutionProvider"


def value(name: str, dtype: type, shape: Sequence[int | str]) -> ValueInfoProto:
    """A graph input or output; names in `shape` are free dimensions."""
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)


def make_model(
    nodes: Sequence[NodeProto],
    arrays: Mapping[str, np.ndarray],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    external: bool = False,
) -> ModelProto:
    """The graph. With `external`, large arrays are only named in it and must be given to `session`."""
    keep = [
        _reference(n, a) if external and a.nbytes > _INLINE else numpy_helper.from_array(a, n)
        for n, a in arrays.items()
    ]
    graph = helper.make_graph(list(nodes), "hwfit", list(inputs), list(outputs), keep)
    opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="hwfit")


def session(model: ModelProto | Path | str, threads: int = 1, arrays: Arrays | None = None) -> ort.InferenceSession:
    """A CPU session on `threads` threads that never spin. `arrays` are the external ones of `make_model`.

    The session may read `arrays` in place: keep them alive and unchanged as long as it lives.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    large = {n: a for n, a in (arrays or {}).items() if a.nbytes > _INLINE}
    if large:
        values = [ort.OrtValue.ortvalue_from_numpy(a) for a in large.values()]
        options.add_external_initializers(list(large), values)
    source = model.SerializeToString() if isinstance(model, ModelProto) else str(model)
    return ort.InferenceSession(source, options, providers=[PROVIDER])


def _reference(name: str, array: np.ndarray) -> TensorProto:
    """A tensor whose bytes are elsewhere."""
    tensor = TensorProto(
        name=name,
        dims=array.shape,
        data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
        data_location=TensorProto.EXTERNAL,
    )
    tensor.external_data.add(key="location", value=f"{name}.bin")
    return tensor
