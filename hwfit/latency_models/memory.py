"""Memory: the bytes a subnet keeps, packed weights and KV cache, as the same sum of ops that prices latency."""

from __future__ import annotations

from hwfit.kernels.op import Op
from hwfit.precision import Precision
from hwfit.subnet import Subnet


def kv_bytes(device: str) -> int:
    """Bytes of one cached key or value: ONNX Runtime keeps fp32 on processors (`cpu…`), the rest 16 bits."""
    return 4 if device.startswith("cpu") else 2


def memory(subnet: Subnet, context: int, batch: int = 1, device: str = "cpu") -> int:
    """Bytes of the packed linears, the embedding and a KV cache of `context` tokens for `batch` sequences on `device`
    (its kind or its key in a table)."""
    cache = 2 * kv_bytes(device) * subnet.kv_heads * subnet.head_size * context * batch * len(subnet.blocks)
    return subnet.weight_bytes + cache


def op_bytes(op: Op, batch: int = 1, device: str = "cpu") -> int:
    """Bytes an op keeps: its packed weight, or one block's keys and values of `batch` sequences."""
    match op.kind:
        case "linear" | "embed":
            return Precision.parse(op.precision).weight_bytes(op.n, op.k)
        case "attention":
            return 2 * kv_bytes(device) * op.k * op.head_size * op.context * batch
        case _:
            return 0
