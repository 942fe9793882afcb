"""Distillation: train a quantised subnet towards the original's answers, with its kernels' rounding in the loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwfit.deploy.bundle import Bundle, stored
from hwfit.deploy.slice import slice_energy, slice_weights, subnet_config
from hwfit.kernels.quantise import Grid, clipped_grid, fake_quantise, fake_quantise_activations, minmax_grid
from hwfit.precision import Precision
from hwfit.search import checkpoint
from hwfit.search.compensate import compensated
from hwfit.search.forward import Attention, decoder, rms_norm, weight_name
from hwfit.search.importance import Ordered
from hwfit.search.mixing import straight_through
from hwfit.search.optimise import batch, finite
from hwfit.search.teacher import Targets, distillation_loss
from hwfit.search.train_step import Stepper, training_stream
from hwfit.subnet import LINEARS, ModelShape, Subnet


@dataclass(frozen=True)
class DistilSettings:
    """`steps` optimiser steps of `sequences` training sequences each; linear warm-up, cosine decay to a tenth.

    `lr` is for a student one nat or more away from its teacher and shrinks in proportion below: Adam's steps do not
    get smaller with the gradient, and would only shake a student that is almost there. One within `enough` nats a
    token at its first step is left as it is.
    """

    steps: int = 28
    sequences: int = 2
    lr: float = 2e-4
    enough: float = 0.02
    warmup: float = 0.1
    checkpoint_every: int = 25
    seed: int = 0

    def rate(self, step: int, start: float) -> float:
        """Learning rate of a step for a student whose loss was `start` at first."""
        lr, ramp = self.lr * min(1.0, start), max(1, round(self.warmup * self.steps))
        if step < ramp:
            return lr * (step + 1) / ramp
        done = (step - ramp) / max(1, self.steps - ramp)
        return lr * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


class _QuantisedWeight(torch.autograd.Function):
    """Fake-quantised weight in the compute dtype; identity backwards."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, precision: Precision, grid: Grid | None, dtype: torch.dtype) -> Tensor:
        return fake_quantise(weight, precision, grid).to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return grads[0].float(), None, None, None


class Student(nn.Module):
    """A subnet with its own float weights, rounded onto fixed grids in every forward pass.

    Lives where `ordered` does. All linears and norm gains train, the embedding does not.
    """

    def __init__(self, ordered: Ordered, config: Mapping[str, Any], subnet: Subnet, dtype: torch.dtype):
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
        self.embed = weights["model.embed_tokens.weight"]
        self.embed_grid = None if subnet.embed.is_float else minmax_grid(self.embed, subnet.embed)
        self.table = fake_quantise(self.embed, subnet.embed, self.embed_grid)  # what the deployed model looks up
        self.trained = nn.ParameterDict(
            {
                n.replace(".", "/"): nn.Parameter(w.clone())
                for n, w in weights.items()
                if n != "model.embed_tokens.weight"
            }
        )
        self.attention = Attention.of(subnet.heads, subnet.kv_heads, subnet.head_size, self.config)
        self.eps = float(self.config["rms_norm_eps"])
        self._rounded: dict[str, Tensor] = {}

    @torch.no_grad()
    def freeze(self, dtype: torch.dtype) -> None:
        """Round the weights once and for all, for a student that is judged and trains no more; compute in `dtype`."""
        self.dtype = dtype
        self._rounded = {
            module: fake_quantise(self.weight(f"{module}.weight"), p, self.grids[module]).to(dtype)
            for module, p in self.precision.items()
        }

    def weight(self, name: str) -> Tensor:
        return self.trained[name.replace(".", "/")]

    def forward(self, ids: Tensor) -> Tensor:
        """Logits `[batch, seq, vocab]`."""

        def project(block: int, names: tuple[str, ...], x: Tensor) -> list[Tensor]:
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

        def norm(block: int, name: str, x: Tensor) -> Tensor:
            return rms_norm(x, self.weight(f"model.layers.{block}.{name}.weight"), self.eps)

        x = F.embedding(ids, self.table).to(self.dtype)
        x = decoder(x, range(len(self.subnet.blocks)), self.attention, project, norm)
        x = rms_norm(x, self.weight("model.norm.weight"), self.eps)
        return project(-1, ("lm_head",), x)[0]

    @torch.no_grad()
    def bundle(self) -> Bundle:
        """The trained weights, quantised onto the grids they were trained with; on the CPU, as all deployment is."""
        tensors: dict[str, Any] = {n.replace("/", "."): p.detach().cpu().clone() for n, p in self.trained.items()}
        for module, p in self.precision.items():
            tensors[f"{module}.weight"] = stored(tensors[f"{module}.weight"], p, _on_cpu(self.grids[module]))
        tensors["model.embed_tokens.weight"] = stored(self.embed.cpu(), self.subnet.embed, _on_cpu(self.embed_grid))
        return Bundle(self.subnet, self.config, tensors)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)  # read by a recorded step
        else:
            group["lr"] = rate


def _on_cpu(grid: Grid | None) -> Grid | None:
    return grid and Grid(grid.scales.cpu(), None if grid.zeros is None else grid.zeros.cpu())


def distil(
    student: Student,
    train: Targets,
    settings: DistilSettings,
    path: Path | None = None,
    key: str = "",
    advance: Callable[..., None] = lambda *a, **k: None,
) -> list[float]:
    """Train `student` in place; returns the loss of every step. Resumes from `path` when `key` matches."""
    device = student.embed.device
    on_gpu = device.type == "cuda"
    params = list(student.parameters())
    optimizer = torch.optim.AdamW(
        params,
        lr=torch.tensor(settings.lr, device=device) if on_gpu else settings.lr,
        betas=(0.9, 0.98),
        weight_decay=0.0,
        fused=True,
        capturable=on_gpu,
    )
    losses: list[float] = []
    if path and (saved := checkpoint.load(path, key)):
        tensors, meta = saved
        student.load_state_dict({n: t for n, t in tensors.items() if n.startswith("trained.")})
        checkpoint.restore_optimizer(optimizer, tensors, "adam")
        losses = meta["losses"]
        advance(len(losses))

    def update(rows: Targets) -> Tensor:
        optimizer.zero_grad()
        loss = distillation_loss(student(rows.ids), rows)
        loss.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        return loss.detach()

    stepper = Stepper(update, device)
    with training_stream(device):
        for step in range(len(losses), settings.steps):
            rows = batch(train, settings.sequences, step, settings.seed + 2)
            with torch.no_grad():
                start = losses[0] if losses else float(distillation_loss(student(rows.ids), rows))
            if step == 0 and start <= settings.enough:
                advance(settings.steps, note=f"loss {start:.3f}, close enough")
                return [start]
            _set_rate(optimizer, settings.rate(step, start))
            losses.append(finite(stepper(rows), f"distillation step {step}", path or Path("-")))
            if path and (step + 1) % settings.checkpoint_every == 0 and step + 1 < settings.steps:
                tensors = dict(student.state_dict()) | checkpoint.optimizer_tensors(optimizer, "adam")
                checkpoint.save(path, tensors, {"key": key, "losses": losses})
            advance(note=f"loss {losses[-1]:.3f}")
    if on_gpu:
        torch.cuda.synchronize(device)
    return losses
