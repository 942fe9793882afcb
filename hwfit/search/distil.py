"""Distillation: train a quantised subnet towards the original's answers, with its kernels' rounding in the loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from hwfit.search import checkpoint, parallel
from hwfit.search.forward import CPU
from hwfit.search.hidden import HiddenStates
from hwfit.search.optimise import batch, finite
from hwfit.search.steps_log import StepsLog
from hwfit.search.student import Lora, Student
from hwfit.search.teacher import Targets, distillation_loss
from hwfit.search.train_step import Stepper, training_stream

Method = Literal["full", "lora"]
METHODS: tuple[Method, ...] = ("full", "lora")


@dataclass(frozen=True)
class DistilSettings:
    """`steps` optimiser steps of `sequences` training sequences each; linear warm-up, cosine decay to a tenth.

    `lr` is for a student one nat or more away from its teacher and shrinks in proportion below: Adam's steps do not
    get smaller with the gradient, and would only shake a student that is almost there. One within `enough` nats a
    token at its first step is left as it is. `method` trains all weights or a low-rank pair beside each; `hidden` is
    the weight of the distance of hidden states, beside that of the answers. `recompute` trades time for memory.
    """

    steps: int = 28
    sequences: int = 2
    lr: float = 2e-4
    enough: float = 0.02
    warmup: float = 0.1
    checkpoint_every: int = 25
    seed: int = 0
    method: Method = "full"
    lora: Lora = Lora()
    hidden: float = 0.0
    recompute: bool = False
    checkpoint_minutes: float = 5.0
    tensorboard: bool = False

    def rate(self, step: int, start: float) -> float:
        """Learning rate of a step for a student whose loss was `start` at first."""
        lr, ramp = self.lr * min(1.0, start), max(1, round(self.warmup * self.steps))
        if step < ramp:
            return lr * (step + 1) / ramp
        done = (step - ramp) / max(1, self.steps - ramp)
        return lr * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))

    @property
    def pairs(self) -> Lora | None:
        """What a `Student` is given as `lora`."""
        return self.lora if self.method == "lora" else None

    def training(self) -> DistilSettings:
        """Without what a run that goes on from a checkpoint may change: learning rate, checkpoints and logs."""
        return replace(self, lr=0, checkpoint_every=0, checkpoint_minutes=0, tensorboard=False, recompute=False)


def distil(
    student: Student,
    train: Targets,
    settings: DistilSettings,
    path: Path | None = None,
    key: str = "",
    advance: Callable[..., None] = lambda *a, **k: None,
    hidden: HiddenStates | None = None,
) -> list[float]:
    """Train `student` in place; returns the loss of every step. Resumes from `path` when `key` matches.

    Under torchrun every process takes its share of each batch, and holds its share of the student. `hidden` gives the
    original's hidden states where `settings.hidden` is not 0.
    """
    part, alone = parallel.share(settings.sequences), parallel.ranks() == 1
    device = student.embed.device
    recorded = alone and device.type == "cuda"
    parallel.shard(student.parts, student)
    params = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        params,
        lr=torch.tensor(settings.lr, device=device) if recorded else settings.lr,
        betas=(0.9, 0.98),
        weight_decay=0.0,
        fused=True,
        capturable=recorded,
    )
    saves = checkpoint.Schedule(settings.checkpoint_every, settings.checkpoint_minutes)
    losses: list[float] = []
    if path and (saved := checkpoint.load(path, key)):
        tensors, meta = saved
        checkpoint.restore_parameters(student, tensors)
        checkpoint.restore_optimizer(optimizer, tensors, "adam")
        losses = meta["losses"]
        advance(len(losses))

    def update(rows: Targets) -> Tensor:
        """Loss and gradient norm before the update."""
        optimizer.zero_grad()
        loss = whole = distillation_loss(student(rows.ids, hidden and hidden.watch(rows.ids)), rows)
        if hidden:
            whole = loss + settings.hidden * hidden.distance()
        whole.backward()
        norm = parallel.gathered(nn.utils.clip_grad_norm_(params, 1.0))
        optimizer.step()
        return torch.stack([loss.detach().float(), norm.to(loss.device, torch.float32)])

    stepper = Stepper(update, device, recorded)
    with training_stream(device if recorded else CPU), StepsLog(path, len(losses), settings.tensorboard) as log:
        for step in range(len(losses), settings.steps):
            rows = batch(train, settings.sequences, step, settings.seed + 2).take(part)
            with torch.no_grad():
                start = losses[0] if losses else float(parallel.mean(distillation_loss(student(rows.ids), rows)))
            if step == 0 and start <= settings.enough:
                advance(settings.steps, note=f"loss {start:.3f}, close enough")
                losses = [start]
                break
            rate = settings.rate(step, start)
            checkpoint.set_rate(optimizer, rate)
            student.drop(step, settings.seed)
            losses.append(finite(parallel.mean(stepper(rows)), f"distillation step {step}", path, "--lr"))
            if path and saves.due(step + 1) and step + 1 < settings.steps:
                trained = {n: p for n, p in student.named_parameters() if p.requires_grad}
                tensors = trained | checkpoint.optimizer_tensors(optimizer, "adam")
                checkpoint.save(path, tensors, {"key": key, "losses": losses})
            log.row(step, settings.sequences * rows.ids.shape[1], {"loss": losses[-1], "lr": rate})
            advance(note=f"loss {losses[-1]:.3f}")
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    student.drop(None)
    return losses


__all__ = ["DistilSettings", "Lora", "Student", "distil"]
