"""Who runs a linear on the GPU: our kernels, cuBLAS, and gemlite and torchao where their packages are installed.

Each contestant makes copies of a random `[n, k]` layer as functions of `x[m, k]`. Those of other packages are made by
their own documented calls.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from hwfit.kernels.cuda_kit import Kit, random_dense
from hwfit.precision import Precision

Layer = Callable[[Tensor], Tensor]
GROUP = 128
OURS = ("w8a16", "w4a16g128", "w2a16g128", "w8a8", "w4a8g128", "w2a8g128", "fp8")


@dataclass(frozen=True)
class Contestant:
    """`precision` is the short name that figures carry (`w4a16`); `make(n, k, seed)` is one layer."""

    who: str
    precision: str
    make: Callable[[int, int, int], Layer]

    def copy(self, layer: Layer, n: int, k: int, seed: int) -> Layer:
        """The same layer in memory of its own; other packages' quantisers take longer than a clone."""
        return deepcopy(layer) if isinstance(layer, nn.Module) else self.make(n, k, seed)

    @property
    def name(self) -> str:
        return f"{self.precision} {self.who}"


def short(name: str) -> str:
    """A precision without its group: `w4a16g128` -> `w4a16`."""
    return name.partition("g")[0]


def contestants(kit: Kit, precisions: tuple[str, ...] = OURS, compiled: bool = False) -> list[Contestant]:
    """Everyone who can take part here; `compiled` runs torchao's int8 layers through torch.compile."""
    found = [Contestant("cublas", "w16a16", _ours(kit, Precision.parse("w16a16")))]
    found += [Contestant("ours", short(p), _ours(kit, Precision.parse(p))) for p in precisions]
    if find_spec("gemlite"):
        found += [Contestant("gemlite", p, make) for p, make in _gemlite(kit).items()]
    if find_spec("torchao"):
        found += _torchao(kit, compiled)
    wanted = {short(p) for p in precisions} | {"w16a16"}
    return [c for c in found if c.precision in wanted]


def _ours(kit: Kit, p: Precision) -> Callable[[int, int, int], Layer]:
    def make(n: int, k: int, seed: int) -> Layer:
        w = kit.random(n, k, p, seed)
        return lambda x: kit.linear(x, w)

    return make


def _gemlite(kit: Kit) -> dict[str, Callable[[int, int, int], Layer]]:
    """gemlite's processors at the precisions we have; integer codes in groups of 128 with zero points, as ours."""
    from gemlite import helper  # pyright: ignore[reportMissingImports]

    options: dict[str, Any] = {"device": str(kit.device), "dtype": kit.dtype}

    def grouped(bits: int) -> Callable[[int, int, int], Layer]:
        def make(n: int, k: int, seed: int) -> Layer:
            generator = torch.Generator(kit.device).manual_seed(seed)
            size = {"device": kit.device, "generator": generator}
            codes = torch.randint(0, 2**bits, (n, k), dtype=torch.uint8, **size)
            scales = torch.full((n, k // GROUP), 12**0.5 / 2**bits / k**0.5, dtype=kit.dtype, device=kit.device)
            zeros = torch.full_like(scales, 2.0 ** (bits - 1))
            return helper.A16Wn(**options).from_weights(codes, scales, zeros, bits, GROUP)

        return make

    def from_float(processor: Any) -> Callable[[int, int, int], Layer]:
        return lambda n, k, seed: processor.from_weights(random_dense(n, k, kit.dtype, kit.device, seed))

    return {
        "w8a16": from_float(helper.A16W8_INT8(**options)),
        "w4a16": grouped(4),
        "w2a16": grouped(2),
        "w8a8": from_float(helper.A8W8_int8_dynamic(**options)),
        "fp8": from_float(helper.A8W8_fp8_dynamic(**options)),
    }


def _torchao(kit: Kit, compiled: bool) -> list[Contestant]:
    """torchao's weight-only int4 (tinygemm's layout) and int8, and its dynamic int8.

    Its int8 layers are meant to be compiled; without that they are told apart as `torchao_eager`.
    """
    from torchao.quantization import (  # pyright: ignore[reportMissingImports]
        Int4WeightOnlyConfig,
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
        quantize_,
    )

    def make_with(config: Any, compile_it: bool) -> Callable[[int, int, int], Layer]:
        def make(n: int, k: int, seed: int) -> Layer:
            layer = nn.Linear(k, n, bias=False, device="meta", dtype=kit.dtype)
            layer.weight = nn.Parameter(random_dense(n, k, kit.dtype, kit.device, seed), requires_grad=False)
            quantize_(layer, config)
            return torch.compile(layer, dynamic=False) if compile_it else layer

        return make

    int8 = "torchao" if compiled else "torchao_eager"
    int4 = Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d")
    return [
        Contestant("torchao", "w4a16", make_with(int4, False)),
        Contestant(int8, "w8a16", make_with(Int8WeightOnlyConfig(), compiled)),
        Contestant(int8, "w8a8", make_with(Int8DynamicActivationInt8WeightConfig(), compiled)),
    ]
