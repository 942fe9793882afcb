"""Distillation: train a quantised subnet towards the original's answers, with its kernels' rounding in the loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from hwfit.progress import out_console
from hwfit.search import checkpoint, parallel
from hwfit.search.forward import CPU
from hwfit.search.guard import GOES_BACK, Guard
from hwfit.search.hidden import HiddenStates
from hwfit.search.optimise import batch, finite
from hwfit.search.snapshot import Snapshot
from hwfit.search.steps_log import WENT_BACK, StepsLog
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

    steps: int = 40
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
    validation: Targets | None = None,
    goes_back: int = GOES_BACK,
) -> list[float]:
    """Train `student` in place; returns the loss of every step. Resumes from `path` when `key` matches.

    Under torchrun every process takes its share of each batch, and holds its share of the student. `hidden` gives the
    original's hidden states where `settings.hidden` is not 0. A run whose loss leaves goes back up to `goes_back` times
    (see `Guard`), held-out rows being the first of `validation`, or of `train` where that has too few.
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
    apart = train if validation is None or len(validation) < settings.sequences else validation
    apart = apart.take(slice(0, settings.sequences)).take(part)

    def loss_of(rows: Targets) -> float:
        with torch.no_grad(), student.undropped():
            return float(parallel.mean(distillation_loss(student(rows.ids), rows)))

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

    guard = Guard(Snapshot(student, optimizer), lambda: loss_of(apart), settings.steps, goes_back)
    stepper = Stepper(update, device, recorded)
    name = path.stem if path else "distillation"
    losses: list[float] = []
    saved = checkpoint.load(path, key) if path else None
    with training_stream(device if recorded else CPU):
        guard.start(fresh=saved is None)
        if saved:
            tensors, meta = saved
            checkpoint.restore_parameters(student, tensors)
            checkpoint.restore_optimizer(optimizer, tensors, "adam")
            losses = meta["losses"]
            guard.resume(losses, tensors, meta.get("guard", {}))
            del tensors, saved
            advance(len(losses))
        with StepsLog(path, len(losses), settings.tensorboard, guard.back) as log:
            while (step := len(losses)) < settings.steps:
                rows = batch(train, settings.sequences, step, settings.seed + 2).take(part)
                start = losses[0] if losses else loss_of(rows)
                if step == 0 and start <= settings.enough:
                    advance(settings.steps, note=f"loss {start:.3f}, close enough")
                    losses = [start]
                    break
                rate = guard.rate * settings.rate(step, start)
                checkpoint.set_rate(optimizer, rate)
                student.drop(step, settings.seed)
                seen = parallel.mean(stepper(rows))
                loss, norm = seen.tolist()
                columns = {"loss": loss, "lr": rate, WENT_BACK: guard.back}
                log.row(step, settings.sequences * rows.ids.shape[1], columns)
                if guard.diverged(loss, norm):
                    losses = guard.go_back(losses)
                    out_console.print(f"{name}: {guard.told(step, loss)}", soft_wrap=True)
                    advance(len(losses) - step, note=f"back at step {len(losses)}")
                    continue
                losses.append(finite(seen, f"distillation step {step}", path, "--lr"))
                guard.look(step + 1)
                if path and saves.due(step + 1) and step + 1 < settings.steps:
                    trained = {n: p for n, p in student.named_parameters() if p.requires_grad}
                    tensors = trained | checkpoint.optimizer_tensors(optimizer, "adam")
                    meta = {"key": key, "losses": losses, "guard": guard.meta()}
                    checkpoint.save(path, tensors, meta, guard.tensors(step + 1))
                advance(note=f"loss {losses[-1]:.3f}")
            if len(losses) == settings.steps and guard.finish():
                out_console.print(f"{name}: {guard.kept()}", soft_wrap=True)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    student.drop(None)
    return losses


__all__ = ["DistilSettings", "Lora", "Student", "distil"]
