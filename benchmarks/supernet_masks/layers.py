"""The mixed layers alone, at full precision: forward and backward of every linear of the block."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.supernet_masks.rivals import RIVALS, SAMPLED, Axis, Pairs
from benchmarks.supernet_masks.setting import Clock, soft_choices
from hwfit.latency_models.choices import Choices
from hwfit.search.forward import GATE_UP, QKV
from hwfit.search.masks import masked
from hwfit.search.mixing import MixedLinear
from hwfit.search.supernet import Mix, Supernet
from hwfit.space import LINEAR_WIDTHS

SITES = (QKV, ("o_proj",), GATE_UP, ("down_proj",))
"""Linears that share an input."""
OURS = "ours"
WIDTHS = ("hidden", "heads", "head_size", "mlp")
Samples = dict[str, list[float]]
"""Seconds by site or linear."""


@dataclass
class Times:
    """Of one forward and backward of all mixed layers. `mixing` is the part of a rival's that mixes weights and takes
    their gradient apart; `whole` says of which rivals all slices or rows were run. `difference` is the largest between
    ours and a rival run whole, over the largest magnitude of its tensor; `off` is that of each form from ours in
    float64, at the count at which nothing is sampled.
    """

    seconds: defaultdict[str, Samples] = field(default_factory=lambda: defaultdict(dict))
    mixing: defaultdict[str, Samples] = field(default_factory=lambda: defaultdict(dict))
    whole: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(RIVALS, True))
    difference: float = 0.0
    off: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def total(self, form: str, pick: Callable[[Sequence[float]], float] = median) -> float:
        return sum(map(pick, self.seconds[form].values()))

    def mixed(self, form: str) -> float:
        return sum(map(median, self.mixing[form].values()))


@dataclass(frozen=True)
class Layers:
    """A supernet at full precision, offered one space after another."""

    net: Supernet
    tokens: int
    clock: Clock

    def measure(self, rounds: int, sample: int, everything: bool, advance: Callable[..., None]) -> Times:
        """All forms in turns, site by site. Rivals in `SAMPLED` run about `sample` slices of a linear at most, or as
        small a part of its rows, unless `everything`; what was left out is charged at the same rate. What is run whole
        is run once.
        """
        out = Times()
        for names in SITES:
            site, choices = " ".join(names), soft_choices(self.net.space, self.net.device)
            x, directions = self._random(names[0], inputs=True).requires_grad_(), [self._random(n) for n in names]
            mine, exact = self.ours(choices, names, x, directions), {}
            for turn in range(rounds):
                for form in RIVALS:
                    whole, theirs = everything or form not in SAMPLED, []
                    for name, direction in zip(names, directions, strict=True):
                        if whole and turn:
                            continue
                        parts = 1 if whole else max(1, -(-len(self._pairs(name)) // sample))
                        theirs.append(self._rival(form, name, choices, x, direction, parts, out))
                        out.whole[form] &= parts == 1
                    if theirs and out.whole[form]:
                        out.difference = max(out.difference, _difference(mine, theirs))
                        if everything:
                            exact = exact or self._exact(choices, names, x, directions)
                            out.off[form] = max(out.off[form], _difference(exact, theirs))
                            out.off[OURS] = max(out.off[OURS], _difference(exact, [mine]))
                    took = self.clock.seconds(lambda: self.ours(choices, names, x, directions))  # noqa: B023
                    out.seconds[OURS].setdefault(site, []).append(took)
                    advance(note=form)
        return out

    def ours(
        self, choices: Choices, names: tuple[str, ...], x: Tensor, directions: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Outputs, and gradients of the input and every width: the supernet's own code."""
        mix = Mix(self.net, choices)
        ys = mix.linears(0, names, masked(x, mix.inner(0, names[0])))
        loss = torch.stack([(y * d).sum() for y, d in zip(ys, directions, strict=True)]).sum()
        return dict(zip(names, ys, strict=True)) | _gradients(loss, choices, x)

    def _exact(
        self, choices: Choices, names: tuple[str, ...], x: Tensor, directions: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """`ours` in float64."""
        net = copy.deepcopy(self.net).double()
        net.dtype = torch.float64
        for linear in net.modules():
            if isinstance(linear, MixedLinear):
                linear.weight = linear.weight.double()
        net.refresh()
        double = Layers(net, self.tokens, self.clock)
        wide = Choices(*(getattr(choices, f.name).detach().double().requires_grad_() for f in fields(choices)))
        return double.ours(wide, names, x.detach().double().requires_grad_(), [d.double() for d in directions])

    def _rival(
        self, form: str, name: str, choices: Choices, x: Tensor, direction: Tensor, parts: int, out: Times
    ) -> dict[str, Tensor]:
        """One linear in a rival's way, `1 / parts` of it; times go to `out`."""
        clock, weight, pairs = self.clock, self.net.linear(0, name).weight, self._pairs(name)
        outputs, inputs = LINEAR_WIDTHS[name]
        alpha = torch.outer(pairs.rows.probabilities(choices, outputs), pairs.columns.probabilities(choices, inputs))
        mix, rows = RIVALS[form](pairs, weight, parts)
        mixed: list[Tensor] = []
        forwards = clock.seconds(lambda: mixed.append(mix(alpha.flatten())))
        whole = (mixed[0] if parts == 1 else weight).detach().requires_grad_()
        results: list[Tensor] = []

        def product() -> None:
            y = F.linear(x, whole)
            results.extend((y.detach(), *torch.autograd.grad((y * direction).sum(), [x, whole])))

        plain = clock.seconds(product)
        y, grad_x, grad_w = results
        grads: dict[str, Tensor] = {}
        backwards = clock.seconds(lambda: grads.update(_gradients((mixed[0], grad_w[rows]), choices)))
        mixing = parts * (forwards + backwards)
        out.mixing[form].setdefault(name, []).append(mixing)
        out.seconds[form].setdefault(name, []).append(mixing + plain)
        return {name: y, "x": grad_x} | grads

    def _pairs(self, name: str) -> Pairs:
        outputs, inputs = LINEAR_WIDTHS[name]
        return Pairs(Axis.of(self.net.space, outputs), Axis.of(self.net.space, inputs))

    def _random(self, name: str, inputs: bool = False) -> Tensor:
        """`[1, tokens, k]` as an input, or `[1, tokens, n]` to multiply the output with for a loss."""
        width = self.net.linear(0, name).weight.shape[inputs]
        generator = torch.Generator().manual_seed(width)
        return torch.randn(1, self.tokens, width, generator=generator).to(self.net.device)


def _gradients(loss: Tensor | tuple[Tensor, Tensor], choices: Choices, x: Tensor | None = None) -> dict[str, Tensor]:
    """Of every width that `loss` depends on, and of `x`; a pair is an output with its gradient."""
    of = {w: getattr(choices, w) for w in WIDTHS} | ({} if x is None else {"x": x})
    y, given = loss if isinstance(loss, tuple) else (loss, None)
    found = torch.autograd.grad(y, list(of.values()), given, allow_unused=True)
    return {name: g for name, g in zip(of, found, strict=True) if g is not None}


def _difference(ours: Mapping[str, Tensor], theirs: Sequence[Mapping[str, Tensor]]) -> float:
    """Largest difference over the largest magnitude of its tensor; gradients of one site's linears add up."""
    worst = 0.0
    for name, mine in ours.items():
        other = torch.stack([t[name].detach() for t in theirs if name in t]).sum(0)
        worst = max(worst, float((mine.detach() - other).abs().max() / other.abs().max()))
    return worst
