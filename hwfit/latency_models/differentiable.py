"""The expected cost of a distribution over subnets, exact and differentiable.

Every axis is an independent categorical choice, so the expectation needs no sampling: a linear of output width q,
input width p and precision r costs Σ_ijb q_i p_j r_b T[i, j, b], times the probability that its block is kept.
Blocks share their widths, so their precisions are added up, weighted by the probability to be kept, before prices come
in: a batch of subnets reads its choices once, and everything else is two small matrix products.
Method: "LLM Compression with Jointly Optimizing Architectural and Quantization choices", arXiv 2606.04063.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from hwfit.kernels.op import Op
from hwfit.kernels.op import linear as linear_op
from hwfit.latency_models.choices import Choices, checked_order, one_hot, uniform
from hwfit.latency_models.estimate import price_all
from hwfit.latency_models.memory import op_bytes
from hwfit.latency_models.overhead import NO_OVERHEAD, Overhead
from hwfit.space import LINEAR_WIDTHS, Space
from hwfit.subnet import LINEARS
from hwfit.workload import Phase

__all__ = ["Choices", "ExpectedCost", "expected_memory", "leaves", "one_hot", "space_ops", "uniform"]

Price = Callable[[Op], float]


class ExpectedCost(nn.Module):
    """`forward(choices) -> [...]`: the expected cost of one forward call, in the unit of `price` (seconds).

    `price` prices one op (`WholeModel.price`, or any table such as bytes); it is called once per distinct op of the
    space, here. `block_order` lists all blocks, most important first: depth d keeps the first d. Computed in
    `dtype` whatever the dtype of the choices; gradients flow back to them. Raises `DataMiss` listing every op of the
    space without a price.
    """

    kept: Tensor  # [depth choices, blocks], 1 where the block is kept
    norm: Tensor  # [hidden choices]
    swiglu: Tensor  # [MLP choices]
    attention: Tensor  # [heads x head sizes]
    embed: Tensor  # [hidden choices]
    lm_head: Tensor  # [hidden choices, precisions]
    hidden_q: Tensor  # [hidden choices x (heads x head sizes), 4, precisions]: q, k, v, o
    hidden_mlp: Tensor  # [hidden choices x MLP choices, 3, precisions]: gate, up, down

    def __init__(
        self,
        space: Space,
        block_order: Sequence[int],
        phase: Phase,
        price: Price,
        overhead: Overhead = NO_OVERHEAD,
        dtype: torch.dtype = torch.float64,
    ):
        super().__init__()
        ops = space_ops(space, phase)
        prices = price_all(price, (op for grid in ops.values() for op in leaves(grid)))
        terms = overhead.terms(phase.name)
        tables = {
            name: torch.tensor(_priced(grid, prices), dtype=torch.float64) * terms.scale for name, grid in ops.items()
        }
        pairs = {name: _by_hidden(name, tables.pop(name)) for name in LINEARS}
        tables["hidden_q"] = torch.stack([pairs[name] for name in LINEARS[:4]], 1)
        tables["hidden_mlp"] = torch.stack([pairs[name] for name in LINEARS[4:]], 1)
        tables["lm_head"] = tables["lm_head"][0]
        for name, table in tables.items():
            self.register_buffer(name, table.to(dtype))
        rank = torch.empty(space.shape.blocks, dtype=torch.long)
        rank[torch.tensor(checked_order(space, block_order))] = torch.arange(space.shape.blocks)
        kept = rank[None, :] < torch.tensor(space.depth)[:, None]
        self.register_buffer("kept", kept.to(dtype))
        self.block, self.constant = terms.block, terms.constant

    def forward(self, choices: Choices) -> Tensor:
        c = choices.map(lambda t: t.to(self.kept.dtype))
        q, keep = _outer(c.heads, c.head_size), c.depth @ self.kept  # keep: [..., blocks], P(block is kept)
        norm = c.hidden @ self.norm
        rest = 2 * norm + q @ self.attention + self.block  # [...], every kept block
        head = (c.lm_head * (c.hidden @ self.lm_head)).sum(-1) + c.hidden @ self.embed + norm + self.constant
        blocks = self._uneven(c, q, keep) if c.mlp_by_block else self._even(c, q, keep)
        return blocks + keep.sum(-1) * rest + head

    def _even(self, c: Choices, q: Tensor, keep: Tensor) -> Tensor:
        """All kept blocks' linears and SwiGLU, `[...]`, where all share one MLP width."""
        rows = [
            torch.tensordot(_outer(c.hidden, widths), _for(c, table), 1)
            for widths, table in ((q, self.hidden_q), (c.mlp, self.hidden_mlp))
        ]
        row = rows[0] + rows[1] if c.by_block else torch.cat(rows, -2)  # [..., 7 or 1, precisions]
        kept_at = (keep[..., None, :] @ c.precision.flatten(-2)).squeeze(-2)  # [..., (7 or 1) x precisions]
        return (kept_at * row.flatten(-2)).sum(-1) + keep.sum(-1) * (c.mlp @ self.swiglu)

    def _uneven(self, c: Choices, q: Tensor, keep: Tensor) -> Tensor:
        """The same where each block has its own: prices differ between blocks, so nothing can be added up first."""
        attention = torch.tensordot(_outer(c.hidden, q), _for(c, self.hidden_q), 1)[..., None, :, :]
        mlp = torch.tensordot(_outer(c.hidden[..., None, :], c.mlp), _for(c, self.hidden_mlp), 1)
        if c.by_block:
            row = attention + mlp  # [..., blocks, 1, precisions]
        else:
            row = torch.cat([attention.expand(*mlp.shape[:-2], *attention.shape[-2:]), mlp], -2)
        return (keep * ((c.precision * row).sum((-1, -2)) + c.mlp @ self.swiglu)).sum(-1)


def _for(c: Choices, table: Tensor) -> Tensor:
    """A table `[widths, linears, precisions]`, its linears added up where they share a precision."""
    return table.sum(1, keepdim=True) if c.by_block else table


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """`[..., i], [..., j] -> [..., i x j]`."""
    return (a[..., :, None] * b[..., None, :]).flatten(-2)


def _by_hidden(name: str, table: Tensor) -> Tensor:
    """A linear's `[output choices, input choices, precisions]` as `[hidden choices x other choices, precisions]`."""
    hidden_first = table if LINEAR_WIDTHS[name][0] == "hidden" else table.transpose(0, 1)
    return hidden_first.flatten(0, 1)


def expected_memory(
    space: Space,
    block_order: Sequence[int],
    context: int,
    batch: int = 1,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> ExpectedCost:
    """Expected bytes: packed weights, scales and zero points of all linears and the embedding, and the KV cache.

    Agrees with `memory.memory` on every one-hot choice. `context` tokens for each of `batch` sequences; 0 leaves the
    cache out, which makes it `Subnet.weight_bytes`.
    """
    phase = Phase("decode", 1, context, batch)
    return ExpectedCost(space, block_order, phase, lambda op: op_bytes(op, batch, device), dtype=dtype)


def space_ops(space: Space, phase: Phase) -> dict[str, list]:
    """Nested lists of ops, shaped like the tables: a linear is `[output choices][input choices][precisions]`."""
    rows = {name: phase.batch if name == "lm_head" else phase.m for name in LINEAR_WIDTHS}
    grids: dict[str, list] = {
        name: [
            [[linear_op(rows[name], n, k, p.name) for p in space.precisions] for k in space.widths(inputs).values()]
            for n in space.widths(outputs).values()
        ]
        for name, (outputs, inputs) in LINEAR_WIDTHS.items()
    }
    m, vocab = phase.m, space.shape.vocab
    grids["norm"] = [Op("norm", m, 0, h) for h in space.hidden]
    grids["swiglu"] = [Op("swiglu", m, 0, w) for w in space.mlp]
    grids["embed"] = [Op("embed", m, vocab, h, space.embed.name) for h in space.hidden]
    grids["attention"] = [
        Op("attention", m, a, space.kv_heads(a), head_size=d, context=phase.context)
        for a in space.heads
        for d in space.head_size
    ]
    return grids


def leaves(grid: list | Op) -> Iterator[Op]:
    if isinstance(grid, Op):
        yield grid
    else:
        for part in grid:
            yield from leaves(part)


def _priced(grid: list | Op, prices: dict[Op, float]) -> list | float:
    return prices[grid] if isinstance(grid, Op) else [_priced(part, prices) for part in grid]
