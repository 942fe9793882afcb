"""Op: one thing a model's forward call runs and a table can price; and the list of them for a whole subnet."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from hwfit.subnet import Subnet
from hwfit.workload import Phase

FEW_ROWS = 16
"""Up to this many rows a linear is bound by reading its weights, and it matters where they are."""
Kind = Literal["linear", "attention", "norm", "swiglu", "embed"]


@dataclass(frozen=True, order=True)
class Op:
    """What is timed. Unused sizes are 0.

    linear: `[m, k] -> [m, n]` at `precision`. attention: `m` new tokens in all (see `sequences`), `n` query heads,
    `k` KV heads of `head_size`, against `context` tokens, rotary included. norm: residual add and RMSNorm of `[m, k]`.
    swiglu: `[m, k]` twice -> `[m, k]`. embed: gather of `m` rows of a `[n, k]` table at `precision`.
    """

    kind: Kind
    m: int
    n: int
    k: int
    precision: str = "w32"
    head_size: int = 0
    context: int = 0


def linear(m: int, n: int, k: int, precision: str) -> Op:
    return Op("linear", m, n, k, precision)


def sequences(op: Op) -> tuple[int, int]:
    """`(batch, new tokens of each)` of an attention op: whole prompts of `context` tokens, else one token each."""
    return (op.m // op.context, op.context) if op.m >= op.context else (op.m, 1)


def subnet_ops(subnet: Subnet, phase: Phase) -> Counter[Op]:
    """How often each op runs in one forward call; prefill's LM head runs on the last token only."""
    m, s = phase.m, subnet
    ops: Counter[Op] = Counter()
    for i in range(len(s.blocks)):
        for n, k, p in s.block_linears(i).values():
            ops[linear(m, n, k, p.name)] += 1
        ops[Op("swiglu", m, 0, s.mlp[i])] += 1
    depth = len(s.blocks)
    ops[Op("attention", m, s.heads, s.kv_heads, head_size=s.head_size, context=phase.context)] += depth
    ops[Op("norm", m, 0, s.hidden)] += 2 * depth + 1
    ops[Op("embed", m, s.vocab, s.hidden, s.embed.name)] += 1
    ops[linear(phase.batch, s.vocab, s.hidden, s.lm_head.name)] += 1
    return ops
