"""Memory: the bytes a subnet keeps, packed weights and KV cache, as the same sum of ops that prices latency."""

from __future__ import annotations

from hwfit.kernels.op import Op
from hwfit.precision import Precision
from hwfit.subnet import Subnet

KV_BYTES = 4


def memory(subnet: Subnet, context: int, batch: int = 1) -> int:
    """Bytes of the packed linears, the embedding and an fp32 KV cache of `context` tokens for `batch` sequences."""
    cache = 2 * KV_BYTES * subnet.kv_heads * subnet.head_size * context * batch * len(subnet.blocks)
    return subnet.weight_bytes + cache


def op_bytes(op: Op, batch: int = 1) -> int:
    """Bytes an op keeps: its packed weight, or one block's fp32 keys and values of `batch` sequences."""
    match op.kind:
        case "linear" | "embed":
            return Precision.parse(op.precision).weight_bytes(op.n, op.k)
        case "attention":
            return 2 * KV_BYTES * op.k * op.head_size * op.context * batch
        case _:
            return 0
