"""Space: the choices a search may make, as plain data. Independent axes; a subnet is one choice on each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

from hwfit.errors import raise_all
from hwfit.precision import Precision
from hwfit.space_check import axis_problems, group_problems
from hwfit.subnet import LINEARS, ModelShape, Subnet

Width = Literal["hidden", "q", "kv", "mlp", "vocab"]
PrecisionPer = Literal["linear", "block"]
AXES = ("hidden", "heads", "head_size", "mlp", "depth")

# linear -> (output width, input width)
LINEAR_WIDTHS: dict[str, tuple[Width, Width]] = {
    "q_proj": ("q", "hidden"),
    "k_proj": ("kv", "hidden"),
    "v_proj": ("kv", "hidden"),
    "o_proj": ("hidden", "q"),
    "gate_proj": ("mlp", "hidden"),
    "up_proj": ("mlp", "hidden"),
    "down_proj": ("hidden", "mlp"),
    "lm_head": ("vocab", "hidden"),
}


@dataclass(frozen=True)
class Defaults:
    """What a space offers on a device unless told otherwise. Groups of 128 give way to smaller ones that divide."""

    precisions: tuple[str, ...]
    embed: str
    from_sm: tuple[tuple[str, int], ...] = ()
    """Precisions that need at least this compute capability (90 for 9.0)."""


DEFAULTS = {
    "cpu": Defaults(("w32", "w8a8", "w8a8g32", "w4a8g32", "w2a8g32"), "w8a8g32"),
    "cuda": Defaults(
        ("w16a16", "w8a8", "w8a16", "w4a16g128", "w4a8g128", "fp8"), embed="w16a16", from_sm=(("fp8", 90),)
    ),
}


@dataclass(frozen=True)
class Space:
    """Width choices are shared by all blocks; every linear has its own precision choice.

    Each tuple descends, so its first entry is the largest and the whole model is the first choice everywhere.
    `heads` counts query heads; KV heads follow in the model's own ratio. `depth` is the number of blocks kept.
    With `precision_per="block"` the linears of a block share one precision; with `mlp_per_block` each block has its own
    MLP width. `linears` and `lm_head` are what those may take of `precisions`, () being all of them.
    """

    shape: ModelShape
    hidden: tuple[int, ...]
    heads: tuple[int, ...]
    head_size: tuple[int, ...]
    mlp: tuple[int, ...]
    depth: tuple[int, ...]
    precisions: tuple[Precision, ...]
    embed: Precision
    precision_per: PrecisionPer = "linear"
    mlp_per_block: bool = False
    linears: tuple[Precision, ...] = ()
    lm_head: tuple[Precision, ...] = ()

    @classmethod
    def default(
        cls,
        shape: ModelShape,
        precisions: tuple[str, ...] = DEFAULTS["cpu"].precisions,
        embed: str = DEFAULTS["cpu"].embed,
        multiple: int = 64,
    ) -> Space:
        """A space for any Llama-family shape: 2/3…1 of hidden and heads, 1/2…1 of MLP, half or all of the head size.

        Hidden sizes but the whole one are multiples of `multiple`.
        """
        return cls(
            shape=shape,
            hidden=fractions_of(shape.hidden, (1, 8 / 9, 7 / 9, 2 / 3), multiple),
            heads=tuple(shape.queries_per_kv * kv for kv in fractions_of(shape.kv_heads, (1, 2 / 3), 1)),
            head_size=(shape.head_size, shape.head_size // 2),
            mlp=fractions_of(shape.mlp, (1, 5 / 6, 2 / 3, 1 / 2), 128),
            depth=fractions_of(shape.blocks, (1, 14 / 15, 13 / 15, 4 / 5, 11 / 15, 2 / 3, 3 / 5, 8 / 15), 1),
            precisions=tuple(Precision.parse(p) for p in precisions),
            embed=Precision.parse(embed),
        )

    @classmethod
    def for_device(
        cls, shape: ModelShape, device: str = "cpu", precisions: tuple[str, ...] = (), sm: int | None = None
    ) -> Space:
        """`default` with the device's own precisions and embedding, or the given precisions; `sm` is a GPU's.

        On other devices than `cpu`, hidden sizes are multiples of the largest group, and of the device's own
        precisions those in groups of 128 take the largest group that divides every width.
        """
        of = DEFAULTS.get(device, DEFAULTS["cpu"])
        if device == "cpu":
            return cls.default(shape, precisions or of.precisions, of.embed)
        least = dict(of.from_sm)
        offered = precisions or tuple(p for p in of.precisions if (sm or 0) >= least.get(p, 0))
        largest = max([p.group or 0 for p in map(Precision.parse, offered)])
        space = cls.default(shape, offered, of.embed, max(64, largest))
        if precisions:
            return space
        for group in (128, 64, 32):
            fitting = tuple(p.replace("g128", f"g{group}") for p in offered)
            space = cls.default(shape, fitting, of.embed, max(64, group))
            if not space.group_problems():
                return space
        return cls.default(shape, tuple(p for p in offered if "g" not in p), of.embed)

    def kv_heads(self, heads: int) -> int:
        return heads // self.shape.queries_per_kv

    def widths(self, width: Width) -> dict[tuple[int, ...], int]:
        """Every value a width can take, keyed by its choice indices (`q` and `kv` by heads and head size)."""
        match width:
            case "hidden":
                return {(i,): v for i, v in enumerate(self.hidden)}
            case "mlp":
                return {(i,): v for i, v in enumerate(self.mlp)}
            case "vocab":
                return {(): self.shape.vocab}
            case "q" | "kv":
                count = (lambda h: h) if width == "q" else self.kv_heads
                return {(i, j): count(h) * d for i, h in enumerate(self.heads) for j, d in enumerate(self.head_size)}

    def options(self, linear: str) -> list[int]:
        """What a linear (one of `LINEARS`, or `lm_head`) may take, as indices into `precisions`."""
        offered = self.lm_head if linear == "lm_head" else self.linears
        return [i for i, p in enumerate(self.precisions) if not offered or p in offered]

    def candidates(self) -> int:
        """How many candidates there are, exactly: the choices of all axes multiplied.

        As the paper counts, every block of the model has its choices, whether it is kept or not.
        """
        blocks, rows = self.shape.blocks, 1 if self.precision_per == "block" else len(LINEARS)
        widths = prod(len(getattr(self, axis)) for axis in AXES if axis != "mlp")
        mlp = len(self.mlp) ** (blocks if self.mlp_per_block else 1)
        precisions = len(self.options(LINEARS[0])) ** (blocks * rows) * len(self.options("lm_head"))
        return widths * mlp * precisions

    def check(self) -> None:
        """Raises `HwfitError` listing every axis that is empty, too wide or unsorted, and every indivisible group."""
        raise_all(axis_problems(self))
        raise_all(self.group_problems())

    def group_problems(self) -> list[str]:
        """One line per linear whose width some group size does not divide."""
        return group_problems(self)

    def subnet(
        self,
        hidden: int,
        heads: int,
        head_size: int,
        mlp: int | tuple[int, ...],
        blocks: tuple[int, ...],
        precision: tuple[tuple[Precision, ...], ...],
        lm_head: Precision,
        embed: Precision | None = None,
    ) -> Subnet:
        """A subnet of this space from chosen values; `precision` has a row per kept block, and so has `mlp` unless it
        is one width for all."""
        return Subnet(
            hidden=hidden,
            heads=heads,
            kv_heads=self.kv_heads(heads),
            head_size=head_size,
            vocab=self.shape.vocab,
            blocks=blocks,
            mlp=(mlp,) * len(blocks) if isinstance(mlp, int) else mlp,
            precision=precision,
            lm_head=lm_head,
            embed=embed or self.embed,
        )

    def sample(self, rng: random.Random) -> Subnet:
        """A subnet drawn uniformly on every axis; kept blocks are a random subset."""
        depth = rng.choice(self.depth)
        blocks = tuple(sorted(rng.sample(range(self.shape.blocks), depth)))
        linears, lm_head = self.linears or self.precisions, self.lm_head or self.precisions
        if self.precision_per == "block":
            rows = tuple((rng.choice(linears),) * len(LINEARS) for _ in blocks)
        else:
            rows = tuple(tuple(rng.choice(linears) for _ in LINEARS) for _ in blocks)
        return self.subnet(
            rng.choice(self.hidden),
            rng.choice(self.heads),
            rng.choice(self.head_size),
            tuple(rng.choice(self.mlp) for _ in blocks) if self.mlp_per_block else rng.choice(self.mlp),
            blocks,
            rows,
            rng.choice(lm_head),
        )

    def to_dict(self) -> dict[str, Any]:
        """What decides a stored result; a field that is not in use adds nothing."""
        out: dict[str, Any] = {axis: list(getattr(self, axis)) for axis in AXES}
        out |= {"precisions": [p.name for p in self.precisions], "embed": self.embed.name}
        if self.precision_per != "linear":
            out["precision_per"] = self.precision_per
        if self.mlp_per_block:
            out["mlp_per_block"] = True
        parts = {part: [p.name for p in getattr(self, part)] for part in ("linears", "lm_head")}
        return out | {part: names for part, names in parts.items() if names}


def fractions_of(full: int, fractions: Sequence[float], multiple: int) -> tuple[int, ...]:
    """`full` and its fractions rounded to `multiple`, without repetition, descending."""
    rounded = {max(multiple, round(full * f / multiple) * multiple) for f in fractions[1:]}
    return (full, *sorted((r for r in rounded if r < full), reverse=True))
