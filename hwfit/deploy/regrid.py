"""Regrid: the same weights at another precision, or in a wider MLP, without changing a value.

Every integer grid of a bundle is part of a wider one: codes of 2 or 3 bits fit 4, a code less its zero point fits a
symmetric 8, and a group's scale may be said again for each part of the group. So what a format or a kernel lacks is
held exactly by its nearest that has more bits or smaller groups, at the price of bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import lcm

import torch
from torch import Tensor

from hwfit.deploy.bundle import FP8, Bundle, weight_specs
from hwfit.deploy.slice import EMBED, LM_HEAD, module_name
from hwfit.errors import HwfitError
from hwfit.kernels.quantise import Grid, Quantised, dequantise, fake_quantise
from hwfit.precision import Precision
from hwfit.subnet import LINEARS


def regrid(name: str, weight: Tensor | Quantised, p: Precision) -> Tensor | Quantised:
    """`weight` `[n, k]` with the same values at `p`; 16 bits rounds them to fp16.

    Raises `HwfitError` if the grid of `p` does not hold them: fewer bits, larger groups, or a plain weight on a grid.
    """
    if p.is_float:
        dense = dequantise(weight) if isinstance(weight, Quantised) else weight
        return dense.half() if p.weight_bits == 16 else dense.float()
    if not isinstance(weight, Quantised) or not holds(p, weight.precision, weight.shape[1]):
        have = weight.precision if isinstance(weight, Quantised) else "plain"
        raise HwfitError(f"{name}: a {have} weight of {weight.shape[1]} inputs is not part of the grid of {p}")
    repeat = (weight.precision.group or weight.shape[1]) // (p.group or weight.shape[1])
    scales, zeros = (_repeated(t, repeat) for t in (weight.grid.scales, weight.grid.zeros))
    assert scales is not None
    codes = weight.codes
    if p.symmetric and zeros is not None:  # |code - zero| < 16
        size = p.group or weight.shape[1]
        codes, zeros = (codes.to(torch.int16) - zeros.repeat_interleave(size, 1).to(torch.int16)).to(torch.int8), None
    return Quantised(codes, Grid(scales, zeros), p)


def holds(p: Precision, part: Precision, k: int) -> bool:
    """Whether the integer grid of `p` has every value that one of `part` over `k` inputs has."""
    if p.is_float or part.is_float or p.weight_bits < part.weight_bits or (part.symmetric and not p.symmetric):
        return False
    return (part.group or k) % (p.group or k) == 0


def with_precisions(bundle: Bundle, chosen: Mapping[str, Precision]) -> Bundle:
    """`bundle` with `chosen` (by weight name) regridded. Raises `HwfitError` as `regrid` does."""
    s = bundle.subnet
    have = weight_specs(s)
    now = {name: chosen.get(name, p) for name, (_, _, p) in have.items()}
    rows = tuple(tuple(now[f"{module_name(i, x)}.weight"] for x in LINEARS) for i in range(len(s.blocks)))
    subnet = replace(s, precision=rows, lm_head=now[f"{LM_HEAD}.weight"], embed=now[f"{EMBED}.weight"])

    def rounded(name: str) -> Tensor | Quantised:  # a bundle keeps fp8 weights in fp32
        weight = bundle.tensors[name]
        return fake_quantise(weight, FP8) if have[name][2].float8 and isinstance(weight, Tensor) else weight

    changed = {name: regrid(name, rounded(name), p) for name, p in chosen.items()}
    return Bundle(subnet, bundle.config, {**bundle.tensors, **changed})


def regridded(bundle: Bundle, chosen: Mapping[str, Precision]) -> tuple[Bundle, str]:
    """`with_precisions`, and by what share that changed the weights' bytes, such as `+12%`."""
    found = with_precisions(bundle, chosen)
    return found, f"{found.subnet.weight_bytes / bundle.subnet.weight_bytes - 1:+.0%}"


def common_precision(parts: Sequence[Precision], k: int) -> Precision:
    """The smallest precision with 16-bit activations that holds all `parts` of `k` inputs exactly; `w16a16` (rounded to
    fp16) if one is no integer grid."""
    if any(p.is_float for p in parts):
        return Precision.parse("w16a16")
    bits = 8 if any(p.symmetric for p in parts) else 4
    group = min(p.group or k for p in parts)
    return Precision(bits, 16, group if any(p.group for p in parts) else None)


def even_width(bundle: Bundle, multiple: int = 1) -> int:
    """The narrowest MLP width that every block's fits in and that all groups of `down_proj` and `multiple` divide."""
    down = [row[LINEARS.index("down_proj")].group or 1 for row in bundle.subnet.precision]
    step = lcm(multiple, *down)
    return -(-max(bundle.subnet.mlp) // step) * step


def pad_mlp(bundle: Bundle, width: int) -> Bundle:
    """Every block's MLP `width` wide: neurons of zeros are added, so the function stays."""
    tensors = dict(bundle.tensors)
    for i, have in enumerate(bundle.subnet.mlp):
        for linear in ("gate_proj", "up_proj", "down_proj"):
            name = f"{module_name(i, linear)}.weight"
            pad = _columns if linear == "down_proj" else _rows
            tensors[name] = pad(tensors[name], width - have)
    subnet = replace(bundle.subnet, mlp=(width,) * len(bundle.subnet.blocks))
    return Bundle(subnet, {**bundle.config, "intermediate_size": width}, tensors)


def _rows(weight: Tensor | Quantised, more: int) -> Tensor | Quantised:
    """`more` outputs of zeros below `[n, k]`."""
    if not isinstance(weight, Quantised):
        return torch.cat([weight, weight.new_zeros(more, weight.shape[1])])
    middle = _middle(weight)
    scales, zeros = weight.grid.scales, weight.grid.zeros
    codes = torch.cat([weight.codes, weight.codes.new_full((more, weight.shape[1]), middle)])
    zeros = None if zeros is None else torch.cat([zeros, zeros.new_full((more, zeros.shape[1]), middle)])
    return replace(weight, codes=codes, grid=Grid(torch.cat([scales, scales.new_ones(more, scales.shape[1])]), zeros))


def _columns(weight: Tensor | Quantised, more: int) -> Tensor | Quantised:
    """`more` inputs of zeros to the right of `[n, k]`; a multiple of its group."""
    if not isinstance(weight, Quantised):
        return torch.cat([weight, weight.new_zeros(weight.shape[0], more)], 1)
    p, n = weight.precision, weight.shape[0]
    scales, zeros = weight.grid.scales, weight.grid.zeros
    if p.group is None:  # the row's one zero point stands for 0 in the new columns too
        fill = weight.codes.new_zeros(n, more) if zeros is None else zeros.to(weight.codes.dtype).expand(n, more)
        return replace(weight, codes=torch.cat([weight.codes, fill], 1))
    middle, groups = _middle(weight), more // p.group
    codes = torch.cat([weight.codes, weight.codes.new_full((n, more), middle)], 1)
    zeros = None if zeros is None else torch.cat([zeros, zeros.new_full((n, groups), middle)], 1)
    return replace(weight, codes=codes, grid=Grid(torch.cat([scales, scales.new_ones(n, groups)], 1), zeros))


def _middle(weight: Quantised) -> int:
    """The code of 0 on a new group's grid."""
    return 0 if weight.precision.symmetric else 2 ** (weight.precision.weight_bits - 1)


def _repeated(t: Tensor | None, times: int) -> Tensor | None:
    return t if t is None or times == 1 else t.repeat_interleave(times, 1)
