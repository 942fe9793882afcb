"""The block, its spaces by number of candidates, and how calls are timed and their memory counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from hwfit.latency_models.choices import Choices
from hwfit.latency_models.transfer_subnets import LLAMA_8B
from hwfit.precision import Precision
from hwfit.search.mixing import MixedLinear
from hwfit.search.supernet import CUT, Supernet
from hwfit.space import Space
from hwfit.subnet import LINEARS, ModelShape

DEPTHS = LLAMA_8B.blocks
BLOCK = replace(LLAMA_8B, blocks=1, vocab=256)
POWERS = (4096, 2048, 1024, 512, 256, 128, 64, 32)
HIDDEN = {
    **{n: POWERS[:n] for n in (1, 2, 4, 8)},
    10: (4096, 3072, 2048, 1536, 1024, 512, 256, 128, 64, 32),
    12: (4096, 3584, 3072, 2560, 2048, 1536, 1024, 512, 256, 128, 64, 32),
}
HEADS = {1: (32,), 2: (32, 16), 3: (32, 16, 8), 4: (32, 24, 16, 8)}
MLP = {
    1: (14336,),
    2: (14336, 8192),
    4: (14336, 12288, 8192, 4096),
    6: (14336, 12288, 10240, 8192, 6144, 4096),
    7: (14336, 12288, 10240, 8192, 6144, 4096, 2048),
}
COUNTS = {
    512: (2, 2, 2, 2),
    2048: (4, 2, 2, 4),
    8192: (8, 2, 4, 4),
    15360: (8, 3, 5, 4),
    38400: (10, 4, 5, 6),
    64512: (12, 4, 6, 7),
}
"""Candidates -> choices of hidden size, heads, head size and MLP width; the depth has 32 in each."""
QUANTISED = ("w8a16g32", "w8a8g32", "w4a16g32", "w4a8g32", "w2a16g32", "w2a8g32")


def space_of(count: int, precisions: Sequence[str], shape: ModelShape = BLOCK) -> Space:
    """One block's part of the space of `count` candidates (1: no choice of width), every width in groups of 32."""
    hidden, heads, sizes, mlp = COUNTS.get(count, (1, 1, 1, 1))
    return Space(
        shape=shape,
        hidden=HIDDEN[hidden],
        heads=HEADS[heads],
        head_size=tuple(shape.head_size >> i for i in range(sizes)),
        mlp=MLP[mlp],
        depth=(1,),
        precisions=tuple(map(Precision.parse, precisions)),
        embed=Precision.parse("w32"),
    )


def config(shape: ModelShape) -> dict[str, float | int]:
    return {"rms_norm_eps": 1e-5, "rope_theta": 500000.0, "hidden_size": shape.hidden, "head_dim": shape.head_size}


def random_weights(shape: ModelShape, device: torch.device) -> dict[str, Tensor]:
    """One block under Hugging Face names, std 1/sqrt(inputs)."""
    g = torch.Generator(device).manual_seed(0)
    h, q, kv = shape.hidden, shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    sizes = dict(
        zip(LINEARS, [(q, h), (kv, h), (kv, h), (h, q), (shape.mlp, h), (shape.mlp, h), (h, shape.mlp)], strict=True)
    )
    out = {"model.embed_tokens.weight": torch.randn(shape.vocab, h, generator=g, device=device)}
    for name, (n, k) in sizes.items():
        part = "self_attn" if name in LINEARS[:4] else "mlp"
        out[f"model.layers.0.{part}.{name}.weight"] = torch.randn(n, k, generator=g, device=device) / k**0.5
    norms = ("model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm")
    out |= {f"{name}.weight": torch.ones(h, device=device) for name in norms}
    return out | {"lm_head.weight": out["model.embed_tokens.weight"]}


def offer(net: Supernet, space: Space) -> None:
    """The same supernet with other width choices: only the copies of `o_proj` depend on them."""
    net.space, net.cuts = space, Supernet.cuts_of(space, net.device)
    old = net.linear(0, CUT)
    precisions, rank = space.precisions, old.up.shape[-1]
    linear = MixedLinear(old.weight, precisions, None, rank, LINEARS.index(CUT), net.cuts)
    linear.load_state_dict(old.state_dict())
    linear.trained = old.trained
    linear.refresh(net.dtype)
    net.linears[f"0_{CUT}"] = linear


def soft_choices(space: Space, device: torch.device) -> Choices:
    """A random distribution over the space, with gradients."""
    g = torch.Generator().manual_seed(1)
    p = len(space.precisions)
    sizes = [(len(a),) for a in (space.hidden, space.heads, space.head_size, space.mlp, space.depth)]
    shapes = [*sizes, (space.shape.blocks, len(LINEARS), p), (p,)]
    return Choices(*((torch.rand(*s, generator=g) + 0.5).log().softmax(-1).to(device).requires_grad_() for s in shapes))


@dataclass(frozen=True)
class Clock:
    device: torch.device

    def seconds(self, call: Callable[[], object]) -> float:
        self._wait()
        start = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """The most memory that torch held at once during `call`, beyond what it held before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        call()
    assert found.profiler is not None
    assert found.profiler.kineto_results is not None
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = top = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
        top = max(top, held)
    return top
