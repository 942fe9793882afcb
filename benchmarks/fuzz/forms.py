"""Forms: file contents as plain values that can be changed and written back, and what else to put in such a file."""

from __future__ import annotations

import csv
import io
import json
import struct
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

DEEP = 20_000


@dataclass(frozen=True)
class Form:
    """`decode` gives dicts, lists and scalars; `encode` is its inverse and may raise for what it cannot write.

    `extras` are whole contents that have broken readers of this form elsewhere.
    """

    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    extras: tuple[bytes, ...] = ()


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _header(data: bytes) -> Any:
    """Safetensors: the JSON header, and the rest as text that nothing decodes."""
    size = struct.unpack("<Q", data[:8])[0]
    return {"header": json.loads(data[8 : 8 + size]), "body": data[8 + size :].hex()}


def _with_header(value: Any) -> bytes:
    head = json.dumps(value["header"]).encode()
    return struct.pack("<Q", len(head)) + head + bytes.fromhex(value["body"])


def _rows(data: bytes) -> Any:
    return [dict(row) for row in csv.DictReader(io.StringIO(data.decode()))]


def _csv(value: Any) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in value for name in row)))
    writer.writeheader()
    writer.writerows(value)
    return out.getvalue().encode()


def _columns(data: bytes) -> Any:
    """Parquet: the rows, and the metadata as text."""
    table = pq.read_table(pa.BufferReader(data))
    metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    return {"rows": table.to_pylist(), "metadata": {k: json.loads(v) for k, v in metadata.items()}}


def _parquet(value: Any) -> bytes:
    metadata = {k: json.dumps(v) for k, v in value["metadata"].items()}
    table = pa.Table.from_pylist(value["rows"]).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def gguf_bytes(value: Mapping[str, Any]) -> bytes:
    """`{"fields": {key: value}, "tensors": {name: shape}}` as a GGUF file of small random f32 tensors."""
    kinds = {bool: "bool", int: "uint32", float: "float32", str: "string", list: "array"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.gguf"
        fields = dict(value["fields"])
        writer = gguf.GGUFWriter(path, fields.pop("general.architecture", "none"))
        for key, v in fields.items():
            getattr(writer, f"add_{kinds[type(v)]}")(key, v)
        for name, shape in value["tensors"].items():
            writer.add_tensor(name, np.random.default_rng(0).random(shape, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def _gguf_value(data: bytes) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.gguf"
        path.write_bytes(data)
        reader = gguf.GGUFReader(path)
        fields = {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")}
        return {"fields": fields, "tensors": {t.name: [int(n) for n in reversed(t.shape)] for t in reader.tensors}}


def _properties(data: bytes) -> Any:
    """ONNX: the metadata, and the rest as text that nothing decodes."""
    model = onnx.ModelProto.FromString(data)
    properties = {p.key: p.value for p in model.metadata_props}
    del model.metadata_props[:]
    return {"properties": properties, "body": model.SerializeToString().hex()}


def _with_properties(value: Any) -> bytes:
    model = onnx.ModelProto.FromString(bytes.fromhex(value["body"]))
    onnx.helper.set_model_props(model, value["properties"])
    return model.SerializeToString()


_LAUGHS = b"".join(b"%c: &%c [%s]\n" % (97 + i, 97 + i, b", ".join([b"*%c" % (96 + i)] * 9)) for i in range(1, 9))

JSON = Form(json.loads, _json, (b"[" * DEEP, b'{"a":' * DEEP, b"null", b"1e999", b"\xff\xfe{}", b"9" * 5000))
YAML = Form(
    yaml.safe_load,
    lambda value: yaml.safe_dump(value).encode(),
    (
        b"[" * 1000,
        b"a: &a [1, 1, 1, 1]\n" + _LAUGHS + b"mlp: *i\n",
        b"mlp: {range: [1, 4000000000]}",
        b"mlp: {fractions: [.nan]}",
        b"mlp: {fractions: ['1e-999999999']}",
        b"? [mlp]\n: 3",
        b"!!python/object/apply:os.system ['true']",
        b"mlp: &m [*m]",
        b"mlp: 2026-99-99",
        b"mlp: 9" + b"9" * 5000,
    ),
)
CSV = Form(_rows, _csv, (b"m,n,k,precision,latency_s\n", b'"', b"a\0b", b"m,m,m\n1,2,3", b"\xff\xfe" * 9))
SAFETENSORS = Form(_header, _with_header, (struct.pack("<Q", 2**63), struct.pack("<Q", 2) + b"{}"))
PARQUET = Form(_columns, _parquet, (b"PAR1PAR1", b"PAR1" + b"\0" * 8 + b"PAR1"))
GGUF = Form(_gguf_value, gguf_bytes, (b"GGUF", b"GGUF" + struct.pack("<IQQ", 3, 2**40, 2**40)))
ONNX = Form(_properties, _with_properties)
TEXT = Form(lambda data: data.decode().split("\n"), lambda value: "\n".join(map(str, value)).encode())
