"""Scale model: the bytes that each stage of a search holds, from running its very code on a smaller model.

All widths and the tokens of a sequence are divided by one factor s. What a stage holds are weights and activations,
products of two of these, so they are s² times as large in the real model, and linear in the number of blocks: one and
two blocks are run. Low-rank pairs, whose rank is not divided, and what is kept on the CPU are counted exactly.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hwfit.kernels.quantise import Grid, minmax_grid
from hwfit.precision import Precision
from hwfit.search import mixing, student
from hwfit.search.distil import DistilSettings
from hwfit.search.hidden import HiddenStates
from hwfit.search.importance import Ordered, measure_importance, order_model
from hwfit.search.live_bytes import LiveBytes
from hwfit.search.optimise import SearchSettings
from hwfit.search.relax import Architecture
from hwfit.search.sensitivity import measure_damage
from hwfit.search.student import Student
from hwfit.search.supernet import Supernet
from hwfit.search.teacher import Targets, distillation_loss, make_targets
from hwfit.space import Space
from hwfit.subnet import LINEARS, ModelShape, Subnet

STAGES = ("importance", "original's answers", "what each choice costs", "supernet weights", "architecture", "distil")
Copies = tuple[int, int, int]
COPIES: dict[str, Copies] = {
    "what each choice costs": (2, 0, 0),
    "supernet weights": (1, 1, 2),
    "architecture": (1, 0, 0),
    "distil": (1, 1, 2),
}
"""How often a stage holds its low-rank pairs: among the weights (with gradients that stay), gradients, moments."""
SNAPSHOT = 3
"""How often distillation on a processor holds what it trains besides: a copy with its moments to go back to. On a GPU
the copy is outside, or small (see `Snapshot`)."""
QUANTISER = 12
"""Bytes a weight of the linear whose clip ratios are being searched, on a GPU."""
TOP = 64
"""The teacher's tokens kept a position, as `make_targets` has it."""


def copies(stage: str, gpu: bool) -> Copies:
    """`COPIES`, a snapshot's included."""
    weights, gradients, moments = COPIES.get(stage, (0, 0, 0))
    return weights + (0 if gpu or stage != "distil" else SNAPSHOT), gradients, moments


@dataclass(frozen=True)
class Held:
    """Bytes: `weights` and other tensors that stay, and what a step needs beyond them, gradients and moments at most.

    `saved` is there after a forward pass, `gradients` after a backward one; `passing` comes and goes on top. `pairs`
    are elements of low-rank pairs of rank 1, not counted in the rest.
    """

    weights: float
    saved: float = 0.0
    gradients: float = 0.0
    adam: float = 0.0
    passing: float = 0.0
    pairs: float = 0.0

    @property
    def peak(self) -> float:
        return self.weights + self.adam + max(self.saved, self.gradients) + self.passing

    def at(self, other: Held, blocks: int) -> Held:
        """With this of one block and `other` of two, what that many blocks hold."""

        def line(one: float, two: float) -> float:
            return one + (blocks - 1) * (two - one)

        names = ("weights", "saved", "gradients", "adam", "pairs")
        lines = {n: line(getattr(self, n), getattr(other, n)) for n in names}
        rising = line(self.passing, other.passing) if other.passing > self.passing else self.passing
        return Held(passing=rising, **lines)

    def without_pairs(self, pairs: Sequence[Tensor], copies: Copies) -> Held:
        """With low-rank pairs of rank 1 that are held so often taken out, and counted in `pairs`."""
        numel = sum(p.numel() for p in pairs)
        return replace(self._plus(-numel, copies), pairs=numel)

    def real(self, factor: int, rank: int, copies: Copies) -> Held:
        """The same of the model that this one is a scale model of; its pairs have that rank."""
        names = ("weights", "saved", "gradients", "adam", "passing")
        scaled = replace(self, **{n: factor**2 * getattr(self, n) for n in names})
        return scaled._plus(factor * rank * self.pairs, copies)

    def _plus(self, numel: float, copies: Copies) -> Held:
        w, g, a = (4 * numel * count for count in copies)
        return replace(self, weights=self.weights + w, gradients=self.gradients + g, adam=self.adam + a)


def factor_of(shape: ModelShape, space: Space) -> int:
    """The largest power of two that divides the whole model's widths, leaves its groups whole and 128 channels."""
    group = max([p.group or 1 for p in space.precisions])

    def divides(s: int) -> bool:
        inputs = (shape.hidden, shape.mlp, *(shape.heads * d for d in space.head_size))
        return all(w % (s * group) == 0 for w in inputs) and all(d % (2 * s) == 0 for d in space.head_size)

    s = 1
    while shape.hidden // (2 * s) >= 128 and divides(2 * s):
        s *= 2
    return s


def scaled(space: Space, s: int, blocks: int) -> Space:
    """The space with all widths divided by `s`, of a model of `blocks` blocks.

    Narrower choices are rounded: they are masks, whose number counts and not their width.
    """
    of, axes = space.shape, ("hidden", "head_size", "mlp")
    widths = {a: getattr(space, a) for a in axes}
    shape = replace(of, vocab=-(-of.vocab // s), blocks=blocks, **{a: getattr(of, a) // s for a in axes})
    return replace(space, shape=shape, depth=(blocks,), **{a: tuple(w // s for w in widths[a]) for a in axes})


@dataclass(frozen=True)
class Job:
    """A search whose bytes are asked for, at `seq` tokens a sequence, computing in `dtype`.

    On a `gpu` the moments of activations stay outside, and the quantisers' search takes a whole weight at a time.
    """

    config: Mapping[str, Any]
    space: Space
    seq: int
    search: SearchSettings
    distil: DistilSettings
    dtype: torch.dtype
    gpu: bool = False

    def small(self, s: int, blocks: int) -> Job:
        """Of a model of `blocks` blocks, its widths and tokens divided by `s`."""
        space = scaled(self.space, s, blocks)
        shape = space.shape
        sizes = {"hidden_size": shape.hidden, "head_dim": shape.head_size, "vocab_size": shape.vocab}
        sizes |= {"intermediate_size": shape.mlp, "num_hidden_layers": blocks, "num_key_value_heads": shape.kv_heads}
        config = {k: v for k, v in self.config.items() if k not in ("rope_scaling", "rope_parameters")}
        return replace(self, config=config | sizes, space=space, seq=max(1, self.seq // s))


def held(job: Job, stages: Iterable[str] = STAGES, factor: int | None = None) -> dict[str, Held]:
    """Every stage's bytes with all blocks and widths kept; from a model `factor` times narrower."""
    space, gpu, wanted = job.space, job.gpu, set(stages)
    s, blocks = factor or factor_of(space.shape, space), space.shape.blocks
    gc.collect()
    gc.freeze()  # what there was before need not be looked at again and again
    try:
        one, two = (_Run(job.small(s, n), max(1, TOP // s)).stages(wanted) for n in (1, 2))
    finally:
        gc.unfreeze()
    ranks = dict.fromkeys(one, job.search.rank) | {"distil": job.distil.lora.rank}
    real = {n: one[n].at(two[n], blocks).real(s, ranks[n], copies(n, gpu)) for n in one}
    if gpu and "what each choice costs" in real:
        found = real["what each choice costs"]
        search_bytes = QUANTISER * max(n * k for n, k, _ in largest(space).linears.values())
        real["what each choice costs"] = replace(found, passing=max(found.passing, search_bytes))
    return real


class _Run:
    """The stages of a small job in their order; the teacher keeps `top` tokens a position."""

    def __init__(self, job: Job, top: int):
        self.space, self.shape, self.config = job.space, job.space.shape, job.config
        self.search, self.distil, self.dtype, self.gpu = job.search, job.distil, job.dtype, job.gpu
        self.rows = max(8, job.search.sequences, job.search.judged, job.distil.sequences)
        self.ids = torch.arange(self.rows * job.seq).view(self.rows, -1) % self.shape.vocab
        self.top = min(top, self.shape.vocab)
        self.live = LiveBytes()
        self.apart = 0  # bytes that are not on the training device, or counted elsewhere

    def stages(self, wanted: set[str]) -> dict[str, Held]:
        with plain_grids(), self.live, torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            out = {}
            ordered = self._read(out)
            targets = self._asked(out, ordered)
            if wanted & {"what each choice costs", "supernet weights", "architecture"}:
                self._searched(out, ordered, targets)
            if "distil" in wanted:
                self._distilled(out, ordered, targets)
        return {name: out[name] for name in STAGES if name in out and name in wanted}

    def _read(self, out: dict[str, Held]) -> Ordered:
        self._begin()
        weights = random_weights(self.shape)
        importance = measure_importance(weights, self.config, self.ids[:2], progress=False)
        ordered = order_model(weights, self.shape, importance, take=True)
        del weights, importance
        self.apart = sum(m.nbytes for m in ordered.moments.values()) if self.gpu else 0
        out["importance"] = self._still()
        return ordered

    def _asked(self, out: dict[str, Held], ordered: Ordered) -> Targets:
        self._begin()
        targets = make_targets(ordered.weights, self.config, self.ids, self.top, self.dtype, progress=False)
        out["original's answers"] = self._still()
        return targets

    def _searched(self, out: dict[str, Held], ordered: Ordered, targets: Targets) -> None:
        self._begin()
        order = tuple(range(self.shape.blocks))
        net = Supernet(
            ordered.weights,
            self.config,
            self.space,
            order,
            ordered.energy,
            1,
            self.dtype,
            recompute=self.search.recompute,
        )
        measure_damage(net, targets.take(slice(0, self.search.judged)), progress=False)
        pairs = [p for name, p in net.named_parameters() if name.endswith(("up", "down"))]
        out["what each choice costs"] = self._still()
        for p in pairs:
            p.grad = None
        rows = targets.take(slice(0, self.search.sequences))
        architecture = Architecture(self.space)

        def drawn(certain: bool) -> Any:
            choices = architecture.sample(2.0, torch.Generator().manual_seed(0))
            return choices.map(Tensor.detach) if certain else choices

        out["supernet weights"] = self._step(
            pairs, lambda: distillation_loss(net(rows.ids, drawn(True)), rows), net.refresh
        )
        for p in pairs:
            p.requires_grad_(False)
        logits = list(architecture.parameters())
        out["architecture"] = self._step(logits, lambda: distillation_loss(net(rows.ids, drawn(False)), rows))
        for name in ("what each choice costs", "supernet weights", "architecture"):
            out[name] = out[name].without_pairs(pairs, COPIES[name])

    def _distilled(self, out: dict[str, Held], ordered: Ordered, targets: Targets) -> None:
        self._begin()
        lora = self.distil.pairs and replace(self.distil.lora, rank=1)
        subnet = largest(self.space)
        net = Student(ordered, self.config, subnet, self.dtype, lora, self.distil.recompute)
        hidden = HiddenStates(ordered, self.config, subnet, self.dtype) if self.distil.hidden else None
        rows = targets.take(slice(0, self.distil.sequences))

        def loss() -> Tensor:
            net.drop(0)
            answers = distillation_loss(net(rows.ids, hidden and hidden.watch(rows.ids)), rows)
            return answers + self.distil.hidden * hidden.distance() if hidden else answers

        pairs = [p for n, p in net.named_parameters() if ".down." in n or ".up." in n]
        trained = [p for p in net.parameters() if p.requires_grad]
        step = self._step(trained, loss)
        if not self.gpu:
            step = replace(step, weights=step.weights + sum(p.nbytes for p in trained) + step.adam)
        out["distil"] = step.without_pairs(pairs, copies("distil", self.gpu))

    def _step(
        self, params: Sequence[Tensor], loss: Callable[[], Tensor], after: Callable[[], None] = lambda: None
    ) -> Held:
        """A second training step: the first one makes the optimiser's moments."""
        optimizer = torch.optim.AdamW(params, lr=1e-4, fused=True)
        for _ in range(2):
            optimizer.zero_grad()
            self._begin()
            before = self.live.now
            value = loss()
            saved = self.live.now - before
            value.backward()
            del value
            gradients = sum(p.grad.nbytes for p in params if p.grad is not None)
            nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()
            after()
        adam = sum(t.nbytes for entry in optimizer.state.values() for t in entry.values() if t.ndim)
        passing = self.live.peak - before - max(saved, gradients)
        optimizer.zero_grad()
        return Held(before - adam - self.apart, saved, gradients, adam, max(0, passing))

    def _still(self) -> Held:
        return Held(self.live.now - self.apart, passing=self.live.peak - self.live.now)

    def _begin(self) -> None:
        gc.collect()
        self.live.peak = self.live.now


@contextmanager
def plain_grids() -> Iterator[None]:
    """Grids without the search for clip ratios, which takes nine tenths of the time: they are as large either way."""

    def plain(w: Tensor, p: Precision, energy: Tensor | None = None) -> Grid:
        return minmax_grid(w, p)

    kept = [(module, module.clipped_grid) for module in (mixing, student)]
    for module, _ in kept:
        setattr(module, "clipped_grid", plain)  # noqa: B010
    try:
        yield
    finally:
        for module, function in kept:
            setattr(module, "clipped_grid", function)  # noqa: B010


def largest(space: Space) -> Subnet:
    """A subnet of full widths and depth whose linears take all precisions in turn."""
    s = space.shape
    rows = tuple(
        tuple(space.precisions[(b + i) % len(space.precisions)] for i in range(len(LINEARS))) for b in range(s.blocks)
    )
    head = max(space.precisions, key=_grid_bytes)
    return space.subnet(s.hidden, s.heads, s.head_size, s.mlp, tuple(range(s.blocks)), rows, head)


def _grid_bytes(p: Precision) -> float:
    """Bytes of scales and zeros a weight."""
    return 0.0 if p.is_float or not p.group else (4 if p.symmetric else 8) / p.group


def random_weights(shape: ModelShape) -> dict[str, Tensor]:
    from hwfit.models.llama import tensor_shapes

    return {n: torch.randn(z) / z[-1] ** 0.5 if len(z) > 1 else torch.ones(z) for n, z in tensor_shapes(shape).items()}
