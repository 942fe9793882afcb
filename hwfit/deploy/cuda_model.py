"""A subnet running on a GPU: packed weights, static key/value cache, each forward call of fixed shape one CUDA graph.

    prefill   batch x tokens new tokens at position 0, logits after the last of each sequence
    decode    one new token a sequence at position context - 1

Both are captured for the shape that is asked for and timed by CUDA events; generation calls the same forward eagerly.
With a `DenseKit` all of it runs on CPU tensors, which is how the tests compare it with transformers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwfit.deploy.bundle import Bundle
from hwfit.deploy.cuda_weights import CudaWeights, pack_bundle, random_weights
from hwfit.errors import HwfitError
from hwfit.kernels import cuda_ops
from hwfit.kernels.cuda_env import memory_guard
from hwfit.kernels.cuda_graph import Launcher, Replay
from hwfit.kernels.cuda_kit import Kit
from hwfit.kernels.cuda_ops import KvCache
from hwfit.subnet import Subnet


@dataclass(frozen=True)
class _Shape:
    """A forward call: `batch` sequences of `tokens` new tokens that end at `context`."""

    batch: int
    tokens: int
    context: int


class CudaModel:
    """One model on the kit's device; `profiler.whole.TimedModel`. One sequence at a time, except in timing."""

    def __init__(self, subnet: Subnet, weights: CudaWeights, kit: Kit, device: Launcher, max_context: int = 512):
        if max_context < 1:
            raise HwfitError(f"max_context={max_context} must be at least 1")
        self.subnet, self.weights, self.kit, self.launcher = subnet, weights, kit, device
        self.max_context = max_context
        self.length = 0  # tokens in the cache
        self._rotary = cuda_ops.rotary_tables(weights.rotary, subnet.head_size, max_context, kit.device)
        self._caches: dict[int, list[KvCache]] = {}
        self._calls: dict[_Shape, Replay] = {}

    @classmethod
    def of(cls, bundle: Bundle, kit: Kit, device: Launcher, max_context: int = 512) -> CudaModel:
        """With the weights of a bundle. Raises `HwfitError` listing what the device cannot run, or out of memory."""
        with _room_on_device(bundle.subnet):
            return cls(bundle.subnet, pack_bundle(bundle, kit), kit, device, max_context)

    @classmethod
    def random(
        cls,
        subnet: Subnet,
        config: Mapping[str, Any],
        kit: Kit,
        device: Launcher,
        max_context: int = 512,
        seed: int = 0,
    ) -> CudaModel:
        """With random weights made on the device, layer by layer; `config` is the original's. Same errors as `of`."""
        subnet.check()
        with _room_on_device(subnet):
            return cls(subnet, random_weights(subnet, config, kit, seed), kit, device, max_context)

    def prefill(self, ids: Sequence[int] | np.ndarray) -> Tensor:
        """Start a new sequence with `ids[seq]`; fp32 logits `[vocab]` after its last token."""
        self._room(len(ids))
        logits = self._forward(self._ids([ids]), _Shape(1, len(ids), len(ids)), 1)
        self.length = len(ids)
        return logits[0, -1].float()

    def decode(self, token: int) -> Tensor:
        """Append one token; fp32 logits `[vocab]` after it."""
        self._room(self.length + 1)
        logits = self._forward(self._ids([[token]]), _Shape(1, 1, self.length + 1), 1)
        self.length += 1
        return logits[0, -1].float()

    def all_logits(self, ids: np.ndarray, start: int = 0) -> Tensor:
        """fp32 logits `[batch, seq - start, vocab]` of `ids[batch, seq]` at positions `start` and later; forgets
        `decode`'s sequence."""
        batch, seq = ids.shape
        self._room(seq)
        self.length = 0
        return self._forward(self._ids(ids), _Shape(batch, seq, seq), seq - start).float()

    def time_prefill(self, tokens: int, batch: int = 1) -> float:
        """Seconds on the device of one forward call over `batch` prompts of `tokens` tokens."""
        return self._time(_Shape(batch, tokens, tokens))

    def time_decode(self, context: int, batch: int = 1) -> float:
        """Seconds on the device of one new token a sequence, attending to `context` tokens including itself."""
        return self._time(_Shape(batch, 1, context))

    def cache_bytes(self, batch: int = 1) -> int:
        """Bytes of the key/value cache of `batch` sequences."""
        s = self.subnet
        return 2 * self.kit.dtype.itemsize * batch * self.max_context * s.kv_heads * s.head_size * len(s.blocks)

    @torch.no_grad()
    def _time(self, shape: _Shape) -> float:
        self._room(shape.context)
        if shape not in self._calls:
            self.length = 0  # its cache is written over
            with memory_guard(f"a forward call of {shape}", self.cache_bytes(shape.batch), "use a smaller batch"):
                generator = torch.Generator().manual_seed(0)
                ids = torch.randint(0, self.subnet.vocab, (shape.batch, shape.tokens), generator=generator)
                self._calls[shape] = self.launcher.capture(partial(self._forward, ids.to(self.kit.device), shape, 1))
        self.length = 0
        return self.launcher.seconds(self._calls[shape])

    @torch.no_grad()
    def _forward(self, ids: Tensor, shape: _Shape, positions: int) -> Tensor:
        """Logits `[batch, positions, vocab]` of the last `positions` of `ids[batch, tokens]`."""
        s, w, linear = self.subnet, self.weights, self.kit.linear
        caches = self._cache(shape.batch)
        stream = cuda_ops.embed(w.embed, ids.reshape(-1), self.kit.dtype)  # [batch * tokens, hidden]
        branch: Tensor | None = None
        for block, cache in zip(w.blocks, caches, strict=True):
            x = cuda_ops.add_norm(stream, branch, block.input_norm, w.eps)
            q, k, v = (linear(x, block.linears[name]) for name in ("q_proj", "k_proj", "v_proj"))
            q = cuda_ops.rope_store(q, k, v, self._rotary, cache, shape.context - shape.tokens)
            branch = linear(cuda_ops.attend(q, cache, shape.context), block.linears["o_proj"])
            x = cuda_ops.add_norm(stream, branch, block.post_norm, w.eps)
            gate, up = (linear(x, block.linears[name]) for name in ("gate_proj", "up_proj"))
            branch = linear(cuda_ops.swiglu(gate, up), block.linears["down_proj"])
        x = cuda_ops.add_norm(stream, branch, w.final_norm, w.eps)
        x = x.view(shape.batch, shape.tokens, s.hidden)[:, -positions:].reshape(-1, s.hidden)
        return linear(x, w.lm_head).view(shape.batch, positions, s.vocab)

    def _cache(self, batch: int) -> list[KvCache]:
        """One cache a block, shared by all forward calls of that batch."""
        if batch not in self._caches:
            s = self.subnet
            size = (batch, self.max_context, s.kv_heads, s.head_size)
            self._caches[batch] = [KvCache.empty(*size, self.kit.dtype, self.kit.device) for _ in s.blocks]
        return self._caches[batch]

    def _ids(self, ids: Any) -> Tensor:
        return torch.as_tensor(np.asarray(ids, np.int64), device=self.kit.device)

    def _room(self, tokens: int) -> None:
        if not 0 < tokens <= self.max_context:
            raise HwfitError(
                f"{tokens} tokens do not fit; allowed: 1 to this model's max_context of {self.max_context} "
                "(build it with a larger max_context)"
            )


def _room_on_device(subnet: Subnet):
    smaller = f"fewer weight bits (this is {subnet.mean_weight_bits:.1f} on average; 4 need {_at_bits(subnet, 4)})"
    return memory_guard("this model", subnet.weight_bytes, f"use {smaller}, fewer blocks or a smaller batch")


def _at_bits(subnet: Subnet, bits: int) -> str:
    return f"about {math.ceil(subnet.params * bits / 8 / 1e8) / 10:.1f} GB"
