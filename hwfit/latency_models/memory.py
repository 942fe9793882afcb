"""Memory, disk and weights of a subnet, as the same sums of ops that price latency."""

from __future__ import annotations

import math

from hwfit.kernels.op import FEW_ROWS, Op, subnet_ops
from hwfit.precision import Precision
from hwfit.subnet import Subnet
from hwfit.workload import Phase


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


def read_bytes(subnet: Subnet, phase: Phase, device: str = "cpu") -> float:
    """Bytes of weights, keys and values that one forward call of few rows reads; infinite for one of many."""
    if phase.m > FEW_ROWS:
        return math.inf
    ops = subnet_ops(subnet, phase).items()
    return float(sum(count * op_bytes(op, phase.batch, device) for op, count in ops if op.kind != "embed"))


def disk(subnet: Subnet) -> int:
    """Bytes that are stored of a subnet: packed linears, the embedding, and the norms' gains in fp32."""
    return subnet.weight_bytes + 4 * subnet.hidden * (2 * len(subnet.blocks) + 1)


def op_disk(op: Op) -> int:
    """Bytes stored of an op: its packed weight, or a norm's gains."""
    return 4 * op.k if op.kind == "norm" else 0 if op.kind == "attention" else op_bytes(op)


def op_params(op: Op) -> int:
    """Weights of a linear or the embedding, as `Subnet.params` counts them."""
    return op.n * op.k if op.kind in ("linear", "embed") else 0
