"""Student: a quantised subnet that trains, all its weights or low-rank pairs beside them, rounding in the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from hwfit.deploy.bundle import Bundle, stored
from hwfit.deploy.slice import slice_energy, slice_weights, subnet_config
from hwfit.kernels.quantise import Grid, clipped_grid, fake_quantise, fake_quantise_activations, minmax_grid
from hwfit.precision import Precision
from hwfit.search import parallel
from hwfit.search.compensate import compensated
from hwfit.search.forward import Attention, decoder, rms_norm, weight_name
from hwfit.search.importance import Ordered
from hwfit.search.mixing import straight_through
from hwfit.subnet import LINEARS, ModelShape, Subnet

EMBED = "model.embed_tokens.weight"


@dataclass(frozen=True)
class Lora:
    """Low-rank pairs in place of whole weights: W + alpha / rank * B A, and the share of A's inputs dropped a step."""

    rank: int = 32
    alpha: float = 16.0
    dropout: float = 0.05


class _QuantisedWeight(torch.autograd.Function):
    """Fake-quantised weight in the compute dtype; identity backwards."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, precision: Precision, grid: Grid | None, dtype: torch.dtype) -> Tensor:
        return fake_quantise(weight, precision, grid).to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return grads[0].float(), None, None, None


class Part(nn.Module):
    """A block, or the final norm with the LM head (`block` -1): what is sharded, and computed again, as one."""

    def __init__(
        self,
        block: int,
        weights: Mapping[str, Tensor],
        precision: Mapping[str, Precision],
        grids: Mapping[str, Grid | None],
        attention: Attention,
        eps: float,
        dtype: torch.dtype,
        lora: Lora | None,
    ):
        super().__init__()
        self.block, self.attention, self.eps, self.dtype, self.lora = block, attention, eps, dtype, lora
        self.precision, self.grids = precision, grids
        self.recompute = False
        linears = {f"{module}.weight" for module in precision}
        frozen = linears if lora else set()  # these may be the original's own tensors
        self.weights = nn.ParameterDict(
            {_key(n): nn.Parameter(w if n in frozen else w.clone(), n not in frozen) for n, w in weights.items()}
        )
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        self.kept: dict[str, Tensor] = {}  # module -> which of A's inputs this step keeps, times 1 / (1 - dropout)
        self._rounded: dict[str, Tensor] = {}
        for name in sorted(linears):
            if lora is None:
                break
            n, k = weights[name].shape
            generator = torch.Generator().manual_seed(_seed(name, 0))
            drawn = torch.randn(lora.rank, k, generator=generator) / k**0.5  # on the CPU: the same on every device
            self.down[_key(name)] = nn.Parameter(drawn.to(weights[name].device))
            self.up[_key(name)] = nn.Parameter(torch.zeros(n, lora.rank, device=weights[name].device))

    def weight(self, name: str) -> Tensor:
        """A weight as it is deployed but for rounding: with its low-rank pair folded in."""
        weight = self.weights[_key(name)]
        if self.lora is None or _key(name) not in self.down:
            return weight
        down = self.down[_key(name)]
        if name in self.kept:
            down = down * self.kept[name]
        return torch.addmm(weight, self.up[_key(name)], down, alpha=self.lora.alpha / self.lora.rank)

    def drop(self, step: int | None, seed: int) -> None:
        """Draw which inputs of the low-rank pairs to leave out at this step; None for none."""
        if step is None:
            self.kept = {}
        if step is None or self.lora is None or self.lora.dropout == 0:
            return
        for module in self.precision:
            name = f"{module}.weight"
            generator = torch.Generator().manual_seed(_seed(name, seed * 1_000_003 + step + 1))
            down = self.down[_key(name)]
            kept = (torch.rand(down.shape[1], generator=generator) >= self.lora.dropout).float() / (
                1 - self.lora.dropout
            )
            if name in self.kept:
                self.kept[name].copy_(kept)  # read by a recorded step
            else:
                self.kept[name] = kept.to(down.device)

    def freeze(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._rounded = {
            module: fake_quantise(self.weight(f"{module}.weight"), p, self.grids[module]).to(dtype)
            for module, p in self.precision.items()
        }

    def forward(self, x: Tensor) -> Tensor:
        """The residual stream `[batch, seq, hidden]` after this block; logits after the head."""
        if self.recompute and torch.is_grad_enabled():
            return recomputed(self._run, x, use_reentrant=False)  # pyright: ignore[reportReturnType]
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        if self.block >= 0:
            return decoder(x, (self.block,), self.attention, self._project, self._norm)
        x = rms_norm(x, self.weight("model.norm.weight"), self.eps)
        return self._project(-1, ("lm_head",), x)[0]

    def _norm(self, block: int, name: str, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight(f"model.layers.{block}.{name}.weight"), self.eps)

    def _project(self, block: int, names: tuple[str, ...], x: Tensor) -> list[Tensor]:
        out, rounded = [], {}
        for name in names:
            module = weight_name(block, name)
            p = self.precision[module]
            key = None if p.is_float else (p.act_bits, p.group)
            if key not in rounded:
                rounded[key] = x if key is None else straight_through(x, fake_quantise_activations(x.detach(), p))
            weight = self._rounded.get(module)
            if weight is None:
                weight = _QuantisedWeight.apply(self.weight(f"{module}.weight"), p, self.grids[module], self.dtype)
            out.append(F.linear(rounded[key], weight))  # pyright: ignore[reportArgumentType]
        return out


class Student(nn.Module):
    """A subnet with its own float weights, rounded onto fixed grids in every forward pass.

    Lives where `ordered` does. The embedding does not train; norm gains do, and all linears, or with `lora` a low-rank
    pair each. `recompute` keeps each block's input alone for the backward pass and computes the rest again.
    """

    def __init__(
        self,
        ordered: Ordered,
        config: Mapping[str, Any],
        subnet: Subnet,
        dtype: torch.dtype,
        lora: Lora | None = None,
        recompute: bool = False,
    ):
        super().__init__()
        shape = ModelShape.from_config(config)
        self.subnet, self.dtype = subnet, dtype
        self.config = subnet_config(config, subnet)
        weights = compensated(slice_weights(ordered.weights, shape, subnet), ordered, shape, subnet)
        energy = slice_energy(ordered.energy, shape, subnet)
        self.precision = {
            weight_name(i, name): p
            for i, row in enumerate(subnet.precision)
            for name, p in zip(LINEARS, row, strict=True)
        } | {"lm_head": subnet.lm_head}
        self.grids = {
            module: None if p.is_float else clipped_grid(weights[f"{module}.weight"], p, energy[module])
            for module, p in self.precision.items()
        }
        self.embed = weights[EMBED]
        self.embed_grid = None if subnet.embed.is_float else minmax_grid(self.embed, subnet.embed)
        self.table = fake_quantise(self.embed, subnet.embed, self.embed_grid)  # what the deployed model looks up
        attention = Attention.of(subnet.heads, subnet.kv_heads, subnet.head_size, self.config)
        self.parts = nn.ModuleList()
        for block in (*range(len(subnet.blocks)), -1):
            names = [n for n in weights if n != EMBED and _block(n) == block]
            modules = [m for m in self.precision if _block(m) == block]
            part = Part(
                block,
                {n: weights[n] for n in names},
                {m: self.precision[m] for m in modules},
                {m: self.grids[m] for m in modules},
                attention,
                float(self.config["rms_norm_eps"]),
                dtype,
                lora,
            )
            part.recompute = recompute and block >= 0
            self.parts.append(part)

    @torch.no_grad()
    def freeze(self, dtype: torch.dtype) -> None:
        """Round the weights once and for all, for a student that is judged and trains no more; compute in `dtype`."""
        self.dtype = dtype
        for part in self._parts():
            part.freeze(dtype)

    def weight(self, name: str) -> Tensor:
        """A weight by its Hugging Face name, low-rank pair folded in."""
        return self._parts()[_block(name)].weight(name)

    def drop(self, step: int | None, seed: int = 0) -> None:
        """Draw what the low-rank pairs drop at this step; None for nothing, as deployed."""
        for part in self._parts():
            part.drop(step, seed)

    @contextmanager
    def undropped(self) -> Iterator[None]:
        """No input of a low-rank pair is left out inside the block; after it, this step's are again."""
        kept = [part.kept for part in self._parts()]
        try:
            self.drop(None)
            yield
        finally:
            for part, mine in zip(self._parts(), kept, strict=True):
                part.kept = mine

    def forward(self, ids: Tensor, seen: Callable[[int, Tensor], None] | None = None) -> Tensor:
        """Logits `[batch, seq, vocab]`; `seen(i, x)` observes the residual stream after the i-th kept block."""
        x = F.embedding(ids, self.table).to(self.dtype)
        for i, part in enumerate(self.parts[:-1]):
            x = part(x)
            if seen:
                seen(i, x)
        return self.parts[-1](x)

    @torch.no_grad()
    def bundle(self) -> Bundle:
        """The trained weights, folded and quantised onto the grids they were trained with; on the CPU."""
        self.drop(None)
        tensors: dict[str, Any] = {}
        for part in self._parts():
            parallel.unshard(part)
            for key in part.weights:
                name = key.replace("/", ".")
                tensors[name] = part.weight(name).detach().cpu().clone()
            parallel.reshard(part)
        for module, p in self.precision.items():
            tensors[f"{module}.weight"] = stored(tensors[f"{module}.weight"], p, _on_cpu(self.grids[module]))
        tensors[EMBED] = stored(self.embed.cpu(), self.subnet.embed, _on_cpu(self.embed_grid))
        return Bundle(self.subnet, self.config, tensors)

    def _parts(self) -> list[Part]:
        return list(self.parts)  # pyright: ignore[reportReturnType]


def _key(name: str) -> str:
    return name.replace(".", "/")


def _block(name: str) -> int:
    """Which block a tensor or module belongs to; -1 stands for the head."""
    return int(name.split(".")[2]) if name.startswith("model.layers.") else -1


def _seed(name: str, step: int) -> int:
    return (sum((i + 1) * ord(c) for i, c in enumerate(name)) * 2_654_435_761 + step) % 2**63


def _on_cpu(grid: Grid | None) -> Grid | None:
    return grid and Grid(grid.scales.cpu(), None if grid.zeros is None else grid.zeros.cpu())
