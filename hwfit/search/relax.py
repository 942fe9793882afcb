"""Relaxation: architecture logits -> sampled choices (Dirichlet for widths and precisions, ReinMax for depth)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from hwfit.latency_models.differentiable import Choices
from hwfit.space import AXES as WIDTHS
from hwfit.space import Space
from hwfit.subnet import LINEARS

PRECISIONS = ("precision", "lm_head")
AXES = (*WIDTHS, *PRECISIONS)
NEVER = -1e4
"""Logit of what is not chosen: far enough below the others that its probability is exactly 0."""


class Architecture(nn.Module):
    """One logit vector per choice. `mean()` is what the budget is priced on, `sample()` what the loss sees.

    Where a block's linears share a precision there is one vector a block, and the choices repeat it for each linear.

    Stays on the CPU with its prices: a few thousand numbers, which a GPU would only wait for. The supernet moves what
    it is given to its own device.
    """

    def __init__(self, space: Space):
        super().__init__()
        p, blocks = len(space.precisions), space.shape.blocks
        rows = 1 if space.precision_per == "block" else len(LINEARS)
        sizes: dict[str, tuple[int, ...]] = {axis: (len(getattr(space, axis)),) for axis in WIDTHS}
        sizes |= {"precision": (blocks, rows, p), "lm_head": (p,)}
        if space.mlp_per_block:
            sizes["mlp"] = (blocks, len(space.mlp))
        self.logits = nn.ParameterDict({axis: nn.Parameter(torch.zeros(sizes[axis])) for axis in AXES})
        self.options = {"precision": space.options(LINEARS[0]), "lm_head": space.options("lm_head")}
        with torch.no_grad():
            for axis, options in self.options.items():
                if len(options) < p:
                    held = torch.full((p,), NEVER)
                    held[options] = 0.0
                    self.logits[axis].copy_(held.expand_as(self.logits[axis]))

    def mean(self) -> Choices:
        """Expected choices: softmax of the logits, which is also the mean of the Dirichlet."""
        return _each_linear(**{axis: self.logits[axis].softmax(-1) for axis in AXES})

    def sample(self, concentration: float, generator: torch.Generator) -> Choices:
        """Dirichlet draws with mean `mean()` (DrNAS, arXiv 2006.10355) and a ReinMax draw of the depth.

        `concentration` scales the Dirichlet; as it grows the draws approach the mean.
        """
        draws = {axis: _dirichlet(self.logits[axis], concentration, generator) for axis in AXES if axis != "depth"}
        return _each_linear(depth=reinmax(self.logits["depth"], generator), **draws)

    def entropy(self) -> float:
        """Mean over decisions of -(1/D) sum p log p, D = log(choices): 1 is undecided, 0 decided."""
        total, count = 0.0, 0
        for logits in self.logits.values():
            if logits.shape[-1] > 1:
                p = logits.detach().softmax(-1)
                h = -(p * p.clamp_min(1e-12).log()).sum(-1) / math.log(logits.shape[-1])
                total, count = total + float(h.sum()), count + h.numel()
        return total / max(count, 1)

    def total_entropy(self) -> Tensor:
        """Sum of the entropies of all decisions in nats, differentiable."""
        p = [logits.softmax(-1) for logits in self.logits.values()]
        return -torch.stack([(q * q.clamp_min(1e-12).log()).sum() for q in p]).sum()

    @torch.no_grad()
    def freeze(self, axes: Iterable[str], index: int) -> None:
        """Decide the choice on every one of `axes` (for baselines that do not search all); where it is not offered,
        the first that is."""
        for axis in axes:
            options = self.options.get(axis, [index])
            self.logits[axis].fill_(NEVER)
            self.logits[axis][..., index if index in options else options[0]] = 0.0
            self.logits[axis].requires_grad_(False)

    @torch.no_grad()
    def drop_branches(self, threshold: float) -> int:
        """Remove choices whose probability fell below `threshold`; returns how many are gone in all."""
        dead = 0
        for logits in self.logits.values():
            mask = logits.softmax(-1) < threshold
            logits.masked_fill_(mask, NEVER)
            dead += int(mask.sum())
        return dead


def _each_linear(**axes: Tensor) -> Choices:
    """Choices with a precision for each linear, whether the logits have one or one for all of a block."""
    rows = axes["precision"]
    return Choices(**{**axes, "precision": rows.expand(-1, len(LINEARS), -1)})


def _dirichlet(logits: Tensor, concentration: float, generator: torch.Generator) -> Tensor:
    """A reparameterised Dirichlet draw with mean softmax(logits); decided vectors stay one-hot."""
    mean = logits.softmax(-1)
    alpha = (concentration * logits.shape[-1] * mean).clamp_min(1e-3)
    # torch.distributions takes no generator; draw under a forked global seed so that a resumed run repeats itself
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        draw = torch.distributions.Dirichlet(alpha).rsample()
    return torch.where(mean > 1 - 1e-6, mean, draw) if logits.shape[-1] > 1 else mean


def reinmax(logits: Tensor, generator: torch.Generator) -> Tensor:
    """A one-hot categorical draw with the second-order ReinMax gradient (arXiv 2304.08612, algorithm 2)."""
    p0 = logits.softmax(-1)
    hot = torch.zeros_like(p0)
    hot[torch.multinomial(p0.detach(), 1, generator=generator)] = 1.0
    p1 = ((hot + p0) / 2).detach()
    p1 = (logits + (p1.clamp_min(1e-12).log() - logits).detach()).softmax(-1)
    p2 = 2 * p1 - p0 / 2
    return hot + p2 - p2.detach()
