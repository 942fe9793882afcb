"""Sensitivity: what each single choice costs in nats, measured once; the additive model the search starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from hwfit.kernels.quantise import fake_quantise_activations
from hwfit.latency_models.differentiable import Choices
from hwfit.progress import track
from hwfit.search.discretise import WIDTHS, Picked
from hwfit.search.masks import keep_gates
from hwfit.search.supernet import Supernet
from hwfit.search.teacher import Targets, distillation_loss
from hwfit.subnet import LINEARS

AT_ONCE = 4
"""Sequences of one backward pass."""


@dataclass(frozen=True)
class Damage:
    """Distillation loss (nats a token) each choice adds on its own, shaped like `Choices`; 0 for the original's.

    Always on the CPU, as all that is as small as an architecture.
    """

    table: Choices
    block_rank: Tensor  # [blocks] rank of each block, 0 = most important
    depths: tuple[int, ...]  # the space's depth choices

    def surrogate(self, choices: Choices) -> Tensor:
        """Expected damage if choices added up; a dropped block's precisions and own MLP width cost nothing."""
        keep = keep_gates(choices.depth, self.depths, len(self.block_rank))[self.block_rank]  # [blocks]
        rows = (choices.precision * self.table.precision).sum((-1, -2))  # [blocks]
        if choices.mlp_by_block:
            rows = rows + (choices.mlp * self.table.mlp).sum(-1)
        axes = [axis for axis in (*WIDTHS, "lm_head") if axis != "mlp" or not choices.mlp_by_block]
        single = sum((getattr(choices, axis) * getattr(self.table, axis)).sum() for axis in axes)
        return single + (keep * rows).sum()

    def of(self, picked: Picked) -> float:
        """The additive damage of one pick, in nats a token."""
        chosen = torch.tensor(picked.precision)[..., None]  # [blocks, 7, 1]
        rows = self.table.precision.gather(-1, chosen)[..., 0] * self._kept(picked)[:, None]
        single = sum(self.of_width(picked, axis) for axis in WIDTHS) + float(self.table.lm_head[picked.lm_head])
        return single + float(rows.sum())

    def of_width(self, picked: Picked, axis: str) -> float:
        """What one axis adds; an MLP width of a block's own, if the block is kept."""
        table, choice = getattr(self.table, axis), getattr(picked, axis)
        if isinstance(choice, int):
            return float(table[choice])
        return float((table.gather(-1, torch.tensor(choice)[:, None])[:, 0] * self._kept(picked)).sum())

    def _kept(self, picked: Picked) -> Tensor:
        return self.block_rank < self.depths[picked.depth]  # [blocks]


def full(supernet: Supernet) -> Choices:
    """The original architecture with the first (widest) choice and the first precision everywhere, as one-hots."""
    space = supernet.space

    def first(*size: int) -> Tensor:
        hot = torch.zeros(*size)
        hot[..., 0] = 1.0
        return hot

    p = len(space.precisions)
    widths = {axis: first(len(getattr(space, axis))) for axis in WIDTHS}
    if space.mlp_per_block:
        widths["mlp"] = first(space.shape.blocks, len(space.mlp))
    return Choices(
        **widths,
        precision=first(space.shape.blocks, len(LINEARS), p),
        lm_head=first(p),
    )


@torch.no_grad()
def measure_damage(supernet: Supernet, targets: Targets, progress: bool = True) -> Damage:
    """Widths and depth by trying each choice; precisions, and MLP widths where each block has its own, by their Fisher
    share, scaled to one uniform trial each."""
    base = full(supernet)
    trials = [(axis, i) for axis in WIDTHS for i in range(1, getattr(base, axis).shape[-1])]
    uniform = range(len(supernet.space.precisions))
    with track(len(trials) + 2 * len(uniform) + 1, "What each choice costs", progress) as advance:

        def loss(choices: Choices) -> float:
            advance()
            return float(distillation_loss(supernet(targets.ids, choices), targets))

        whole = [loss(_at_precision(base, p)) for p in uniform]
        table = {axis: torch.zeros_like(getattr(base, axis)) for axis in WIDTHS}
        reference = min(whole)
        start = _at_precision(base, whole.index(reference))
        for axis, i in trials:
            hot = F.one_hot(torch.tensor(i), table[axis].shape[-1]).float().expand_as(table[axis])
            table[axis][..., i] = max(0.0, loss(replace(start, **{axis: hot})) - reference)
        precision, lm_head, mlp = fisher_shares(supernet, targets, advance)
    if base.mlp_by_block:
        table["mlp"] *= mlp / mlp.sum(0).clamp_min(1e-30)
    for p in uniform:
        total = float(precision[..., p].sum() + lm_head[p])
        scale = max(0.0, whole[p] - reference) / total if total > 0 else 0.0
        precision[..., p] *= scale
        lm_head[p] *= scale
    rank = torch.tensor([supernet.rank_of[b] for b in range(supernet.space.shape.blocks)])
    return Damage(Choices(precision=precision, lm_head=lm_head, **table), rank, supernet.space.depth)


@torch.no_grad()
def fisher_shares(
    supernet: Supernet, targets: Targets, advance: Callable[..., None] = lambda *a, **k: None
) -> tuple[Tensor, Tensor, Tensor]:
    """Relative damage of every linear at every precision, `[blocks, 7, precisions]` and `[precisions]` for the LM head,
    and of every MLP width in every block, `[blocks, MLP choices]` (of what `down_proj` then no longer reads).

    One backward pass with labels drawn from the teacher gives g = d log p / dy for each linear's output y; rounding
    moves y by delta, and the KL grows by 1/2 E[(g . delta)^2] (the empirical Fisher, as in arXiv 2210.17323's and
    HAWQ's second-order terms, here in the output space, which covers activation rounding too). `AT_ONCE` sequences at
    a time, as a pass holds every linear's inputs and outputs.
    """
    space, device = supernet.space, targets.ids.device
    generator = torch.Generator().manual_seed(0)
    n, seq, top = targets.index.shape
    likely = targets.logprob.float().exp().view(-1, top).cpu()  # drawn there, so that every device draws the same
    drawn = torch.multinomial(likely, 1, generator=generator).view(n, seq, 1).to(device)
    labels = targets.index.gather(-1, drawn)[..., 0]  # [n, seq]
    precision = torch.zeros(space.shape.blocks, len(LINEARS), len(space.precisions), device=device)
    lm_head = torch.zeros(len(space.precisions), device=device)
    mlp = torch.zeros(space.shape.blocks, len(space.mlp), device=device)
    for first in range(0, n, AT_ONCE):
        part = slice(first, min(first + AT_ONCE, n))
        seen = _inputs_outputs(supernet, targets.ids[part], labels[part])
        for (block, name), (x, y) in seen.items():
            assert y.grad is not None
            linear = supernet.linear(block, name)
            if name == "down_proj":
                for i, width in enumerate(space.mlp):
                    cut = F.linear(x[..., width:], linear.weight[:, width:].to(x.dtype))
                    mlp[block, i] += (y.grad.float() * cut.float()).sum(-1).square().sum()
            for p, choice in enumerate(space.precisions):
                if choice.weight_bits == 32:
                    continue
                moved = F.linear(fake_quantise_activations(x, choice), linear.copy(p)) - y
                share = (y.grad.float() * moved.float()).sum(-1).square().sum()
                if name == "lm_head":
                    lm_head[p] += share
                else:
                    precision[block, LINEARS.index(name), p] += share
            advance(len(space.precisions) / len(seen) * (part.stop - first) / n)
        del seen, x, y  # before the next pass: they are most of what one holds
    return precision.cpu(), lm_head.cpu(), mlp.cpu()


def _inputs_outputs(supernet: Supernet, ids: Tensor, labels: Tensor) -> dict[tuple[int, str], tuple[Tensor, Tensor]]:
    """(block, linear) -> x and y of the original, y with the gradient of the labels' summed loss."""
    seen: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}

    def watch(block: int, name: str, x: Tensor, y: Tensor) -> None:
        y.retain_grad()
        seen[block, name] = (x.detach(), y)

    with torch.enable_grad():
        logits = supernet(ids, _at_precision(full(supernet), _float_index(supernet)), watch=watch)
        F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum").backward()
    return seen


def _at_precision(choices: Choices, p: int) -> Choices:
    hot = F.one_hot(torch.tensor(p), choices.lm_head.shape[-1]).float()
    return replace(choices, precision=hot.expand_as(choices.precision), lm_head=hot)


def _float_index(supernet: Supernet) -> int:
    """The most precise choice: where the gradients are taken."""
    bits = [p.weight_bits * 1000 + p.act_bits * 10 + (p.group is not None) for p in supernet.space.precisions]
    return bits.index(max(bits))
