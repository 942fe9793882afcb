"""A model's weights on a GPU: packed from a bundle, or random ones made there layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hwfit.deploy.bundle import Bundle
from hwfit.deploy.config_check import config_problems
from hwfit.deploy.slice import EMBED, FINAL_NORM, LM_HEAD, NORMS, module_name, subnet_config
from hwfit.errors import raise_all
from hwfit.kernels.cuda_kit import Kit, Weight, embed_why_not, pack_table, random_table
from hwfit.kernels.cuda_ops import PackedTable
from hwfit.rotary import Rotary
from hwfit.subnet import LINEARS, Subnet


@dataclass(frozen=True)
class BlockWeights:
    """One block: its two gains `[hidden]` and its linears by name."""

    input_norm: Tensor
    post_norm: Tensor
    linears: dict[str, Weight]


@dataclass(frozen=True)
class CudaWeights:
    """Everything a forward call reads, on the device."""

    embed: Tensor | PackedTable
    blocks: tuple[BlockWeights, ...]
    final_norm: Tensor
    lm_head: Weight
    eps: float
    rotary: Rotary

    @property
    def nbytes(self) -> int:
        """Bytes on the device: linears, embedding and gains."""
        parts: Iterable[Weight] = [self.embed, self.final_norm, self.lm_head]
        inner = [w for b in self.blocks for w in (b.input_norm, b.post_norm, *b.linears.values())]
        return sum(w.nbytes for w in [*parts, *inner])


def unsupported(subnet: Subnet, config: Mapping[str, Any], kit: Kit) -> list[str]:
    """Why this subnet does not run on the kit's device, one line each."""
    problems = config_problems(config, "on cuda")
    reasons = {name: (p, kit.why_not(p, k)) for name, (_, k, p) in subnet.linears.items()}
    problems += [f"{name}: {p} does not run: {why}" for name, (p, why) in reasons.items() if why]
    if why := embed_why_not(subnet.embed):
        problems.append(f"embed: {why}")
    return problems


def pack_bundle(bundle: Bundle, kit: Kit) -> CudaWeights:
    """The bundle's weights as the kit keeps them, moved one by one. Raises `HwfitError` with all of `unsupported`."""
    raise_all(unsupported(bundle.subnet, bundle.config, kit))
    tensors = bundle.tensors

    def gain(name: str) -> Tensor:
        w = tensors[f"{name}.weight"]
        assert isinstance(w, Tensor)
        return w.to(kit.device, kit.dtype)

    blocks = tuple(
        BlockWeights(
            gain(f"model.layers.{i}.{NORMS[0]}"),
            gain(f"model.layers.{i}.{NORMS[1]}"),
            {
                name: kit.pack(tensors[f"{module_name(i, name)}.weight"], p)
                for name, (_, _, p) in bundle.subnet.block_linears(i).items()
            },
        )
        for i in range(len(bundle.subnet.blocks))
    )
    return CudaWeights(
        embed=pack_table(tensors[f"{EMBED}.weight"], kit),
        blocks=blocks,
        final_norm=gain(FINAL_NORM),
        lm_head=kit.pack(tensors[f"{LM_HEAD}.weight"], bundle.subnet.lm_head),
        eps=float(bundle.config["rms_norm_eps"]),
        rotary=Rotary.of(bundle.config),
    )


def random_weights(subnet: Subnet, config: Mapping[str, Any], kit: Kit, seed: int = 0) -> CudaWeights:
    """Random weights for timing, each drawn on the device in its own format. `config` is the original's.

    Raises `HwfitError` with all of `unsupported`.
    """
    raise_all(unsupported(subnet, config, kit))
    own = subnet_config(config, subnet, uneven_mlp=True)
    ones = torch.ones(subnet.hidden, dtype=kit.dtype, device=kit.device)
    blocks = tuple(
        BlockWeights(
            ones.clone(),
            ones.clone(),
            {
                name: kit.random(n, k, p, 1000 * seed + len(LINEARS) * i + j)
                for j, (name, (n, k, p)) in enumerate(subnet.block_linears(i).items())
            },
        )
        for i in range(len(subnet.blocks))
    )
    return CudaWeights(
        embed=random_table(subnet.vocab, subnet.hidden, subnet.embed, kit, seed),
        blocks=blocks,
        final_norm=ones,
        lm_head=kit.random(subnet.vocab, subnet.hidden, subnet.lm_head, 1000 * seed + 999),
        eps=float(own["rms_norm_eps"]),
        rotary=Rotary.of(config),
    )
