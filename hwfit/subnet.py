"""Subnet: the one currency of hwfit. Widths, kept blocks and a precision per linear; frozen, JSON in and out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any

from hwfit.errors import HwfitError, raise_all
from hwfit.files import parse_json
from hwfit.precision import Precision

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FORMAT = 1
LARGEST = 2**31 - 1
"""Of any size of a model."""


@dataclass(frozen=True)
class ModelShape:
    """The dimensions of a Llama-family model that decide what it costs."""

    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    mlp: int
    blocks: int
    vocab: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """Reads a Hugging Face `config.json` mapping of a Llama-family model.

        Raises `KeyError` for a size that is missing, `ValueError` or `TypeError` for one that is none.
        """

        def size(name: str, otherwise: int | None = None) -> int:
            value = config[name] if otherwise is None else config.get(name) or otherwise
            if isinstance(value, bool) or not 0 < index(value) <= LARGEST:
                raise ValueError(f"{name}={value!r:.40} must be a whole number from 1 to {LARGEST}")
            return index(value)

        heads, hidden = size("num_attention_heads"), size("hidden_size")
        kv_heads = size("num_key_value_heads", heads)
        if heads % kv_heads:
            raise ValueError(f"num_attention_heads={heads} is no multiple of num_key_value_heads={kv_heads}")
        return cls(
            hidden=hidden,
            heads=heads,
            kv_heads=kv_heads,
            head_size=size("head_dim", hidden // heads),
            mlp=size("intermediate_size"),
            blocks=size("num_hidden_layers"),
            vocab=size("vocab_size"),
        )

    @property
    def queries_per_kv(self) -> int:
        return self.heads // self.kv_heads


@dataclass(frozen=True)
class Subnet:
    """A part of a Llama-family model: prefix widths, kept blocks, one precision per linear.

    `heads` query heads keep `kv_heads` key/value heads (whole groups are dropped). `mlp` and `precision` have one
    entry per kept block, in the order of `blocks` (ascending indices into the original model);
    `precision[i]` follows `LINEARS`.
    """

    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    vocab: int
    blocks: tuple[int, ...]
    mlp: tuple[int, ...]
    precision: tuple[tuple[Precision, ...], ...]
    lm_head: Precision
    embed: Precision

    @classmethod
    def whole(
        cls, shape: ModelShape, precision: Precision | str = "w32", embed: Precision | str | None = None
    ) -> Subnet:
        """The original architecture at one precision everywhere (`embed` defaults to the same)."""
        p = Precision.parse(precision) if isinstance(precision, str) else precision
        e = p if embed is None else Precision.parse(embed) if isinstance(embed, str) else embed
        return cls(
            hidden=shape.hidden,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_size=shape.head_size,
            vocab=shape.vocab,
            blocks=tuple(range(shape.blocks)),
            mlp=(shape.mlp,) * shape.blocks,
            precision=((p,) * len(LINEARS),) * shape.blocks,
            lm_head=p,
            embed=e,
        )

    def block_linears(self, i: int) -> dict[str, tuple[int, int, Precision]]:
        """`name -> (n outputs, k inputs, precision)` of the i-th kept block."""
        q, kv, h, m = self.heads * self.head_size, self.kv_heads * self.head_size, self.hidden, self.mlp[i]
        shapes = ((q, h), (kv, h), (kv, h), (h, q), (m, h), (m, h), (h, m))
        return {name: (n, k, p) for name, (n, k), p in zip(LINEARS, shapes, self.precision[i], strict=True)}

    @cached_property
    def linears(self) -> dict[str, tuple[int, int, Precision]]:
        """Every linear, `{"<position>.q_proj": (n, k, precision), …, "lm_head": …}`."""
        out = {f"{i}.{name}": spec for i in range(len(self.blocks)) for name, spec in self.block_linears(i).items()}
        out["lm_head"] = (self.vocab, self.hidden, self.lm_head)
        return out

    @property
    def params(self) -> int:
        """Weights of all linears plus the embedding (norm gains not counted)."""
        return sum(n * k for n, k, _ in self.linears.values()) + self.vocab * self.hidden

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed linears and the embedding: what the model file needs."""
        linears = sum(p.weight_bytes(n, k) for n, k, p in self.linears.values())
        return linears + self.embed.weight_bytes(self.vocab, self.hidden)

    @property
    def mean_weight_bits(self) -> float:
        """Average stored bits a weight over the linears, scales not counted."""
        total = sum(n * k for n, k, _ in self.linears.values())
        return sum(n * k * p.weight_bits for n, k, p in self.linears.values()) / total

    def check(self, shape: ModelShape | None = None) -> None:
        """Raises `HwfitError` listing everything wrong: sizes, group sizes that divide no width, foreign blocks."""
        problems = [
            f"subnet: {name}={value} must be at least 1"
            for name in ("hidden", "heads", "kv_heads", "head_size", "vocab")
            if (value := getattr(self, name)) < 1
        ]
        if min(self.mlp, default=1) < 1:
            problems.append(f"subnet: mlp={min(self.mlp)} must be at least 1")
        if min(self.blocks, default=0) < 0:
            problems.append(f"subnet: block {min(self.blocks)} must be at least 0")
        if not self.blocks:
            problems.append("subnet: keeps no block; keep at least 1")
        if list(self.blocks) != sorted(set(self.blocks)):
            problems.append(f"subnet: blocks {self.blocks} must ascend without repetition")
        if not len(self.blocks) == len(self.mlp) == len(self.precision):
            problems.append("subnet: blocks, mlp and precision must have one entry per kept block")
            raise HwfitError(problems)
        if any(len(row) != len(LINEARS) for row in self.precision):
            raise HwfitError([*problems, f"subnet: every precision row needs {len(LINEARS)} entries: {LINEARS}"])
        if self.kv_heads > 0 and self.heads % self.kv_heads:
            problems.append(f"subnet: heads={self.heads} is no multiple of kv_heads={self.kv_heads}")
        if self.head_size % 2:
            problems.append(f"subnet: head_size={self.head_size} must be even (rotary pairs)")
        problems += group_problems(self)
        if shape is not None:
            limits = {
                "hidden": shape.hidden,
                "heads": shape.heads,
                "kv_heads": shape.kv_heads,
                "head_size": shape.head_size,
            }
            problems += [
                f"subnet: {name}={getattr(self, name)} exceeds the original's {limit}"
                for name, limit in limits.items()
                if getattr(self, name) > limit
            ]
            if max(self.mlp, default=0) > shape.mlp:
                problems.append(f"subnet: mlp={max(self.mlp)} exceeds the original's {shape.mlp}")
            if self.blocks and self.blocks[-1] >= shape.blocks:
                problems.append(
                    f"subnet: block {self.blocks[-1]} does not exist; the original has {shape.blocks} blocks"
                )
            if self.vocab != shape.vocab:
                problems.append(f"subnet: vocab={self.vocab} differs from the original's {shape.vocab}")
        raise_all(problems)

    def to_json(self) -> str:
        fields = {
            "format": FORMAT,
            **{name: getattr(self, name) for name in ("hidden", "heads", "kv_heads", "head_size", "vocab")},
            "blocks": list(self.blocks),
            "mlp": list(self.mlp),
            "precision": [[p.name for p in row] for row in self.precision],
            "lm_head": self.lm_head.name,
            "embed": self.embed.name,
        }
        return json.dumps(fields, indent=1)

    @classmethod
    def from_json(cls, text: str, source: str = "subnet") -> Subnet:
        """Validated inverse of `to_json`. Raises `HwfitError` naming `source`."""
        try:
            raw = parse_json(text)
            if raw["format"] != FORMAT:
                raise HwfitError(f"{source}: format {raw['format']} is not the supported {FORMAT}")
            subnet = cls(
                **{name: int(raw[name]) for name in ("hidden", "heads", "kv_heads", "head_size", "vocab")},
                blocks=tuple(int(b) for b in raw["blocks"]),
                mlp=tuple(int(m) for m in raw["mlp"]),
                precision=tuple(tuple(Precision.parse(p) for p in row) for row in raw["precision"]),
                lm_head=Precision.parse(raw["lm_head"]),
                embed=Precision.parse(raw["embed"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise HwfitError(f"{source}: not a subnet file ({type(error).__name__}: {error})") from error
        subnet.check()
        return subnet

    @classmethod
    def load(cls, path: Path) -> Subnet:
        """Raises `HwfitError` as `from_json` does, and for a file that cannot be read."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise HwfitError(f"{path}: not a subnet file ({error})") from error
        return cls.from_json(text, source=str(path))


def group_problems(subnet: Subnet) -> list[str]:
    """One line per linear whose group size does not divide its input width."""
    return [
        f"{name}: group size {p.group} of {p.name} does not divide its input width {k}; "
        f"allowed groups here: {[g for g in (32, 64, 128) if k % g == 0] or 'none (use w8a8 per channel)'}"
        for name, (_, k, p) in {**subnet.linears, "embed": (subnet.vocab, subnet.hidden, subnet.embed)}.items()
        if p.group and k % p.group
    ]
