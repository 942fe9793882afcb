"""Schemes: which of our precisions compressed-tensors holds and vLLM serves, and as what.

    w4a16, w4a16gG, w4a8, w4a8gG     4-bit weights with zero points, 16-bit activations     pack-quantized
    w8a16, w8a16gG, w8a8gG           symmetric 8-bit weights, 16-bit activations            pack-quantized
    w8a8                             symmetric 8-bit weights per channel, int8 a token      int-quantized
    fp8                              e4m3 weights per channel, e4m3 a token                 float-quantized
    w16a16, w32                      ignored: fp16

What vLLM has no kernel for: activations rounded group by group (they stay at 16 bits), 2- and 3-bit weights with zero
points, and different schemes among q, k, v or among gate and up, which it fuses into one matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hwfit.deploy.bundle import Bundle
from hwfit.deploy.regrid import common_precision, regridded
from hwfit.deploy.slice import EMBED, LM_HEAD, module_name
from hwfit.precision import Precision
from hwfit.subnet import LINEARS, Subnet

Kind = Literal["pack-quantized", "int-quantized", "float-quantized"]
FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
DENSE = Precision.parse("w16a16")
_REASONS = {
    "narrow": "2- or 3-bit weights with zero points in {}, which vLLM has no kernel for",
    "differ": "precisions differ in {}, and vLLM makes one matrix of them",
}


@dataclass(frozen=True)
class Scheme:
    """One way to store and run a linear; `group` None is a scale a channel."""

    kind: Kind
    bits: int
    group: int | None = None

    def config(self, targets: Sequence[str]) -> dict[str, Any]:
        """A config group of compressed-tensors for the modules `targets`."""
        weights: dict[str, Any] = {
            "num_bits": self.bits,
            "type": "float" if self.kind == "float-quantized" else "int",
            "symmetric": self.bits == 8,
            "strategy": "group" if self.group else "channel",
            "group_size": self.group,
            "dynamic": False,
        }
        activations = None
        if self.kind != "pack-quantized":
            activations = {**weights, "strategy": "token", "group_size": None, "symmetric": True, "dynamic": True}
        parts = {"weights": weights, "input_activations": activations, "output_activations": None}
        return {"targets": list(targets), "format": self.kind, **parts}


def scheme_of(p: Precision) -> Scheme | None:
    """How a linear at `p` is stored, or None if plainly; 2- and 3-bit weights have none (`kept_problems`)."""
    if p.float8:
        return Scheme("float-quantized", 8)
    if p.is_float:
        return None
    if p.symmetric and not p.group and p.act_bits == 8:
        return Scheme("int-quantized", 8)
    return Scheme("pack-quantized", p.weight_bits, p.group)


def quantised_linears(subnet: Subnet) -> dict[str, Precision]:
    """Module name -> precision of every linear inside the blocks; vLLM serves the head and the embedding plainly."""
    rows = zip(range(len(subnet.blocks)), subnet.precision, strict=True)
    return {module_name(i, x): p for i, row in rows for x, p in zip(LINEARS, row, strict=True)}


def scheme_problems(bundle: Bundle) -> list[str]:
    """Why vLLM would not serve the precisions as they are: a line for each kind of linears, with what `--nearest`
    writes for the first of them."""
    chosen = nearest_precisions(bundle)
    found: dict[tuple[str, str], list[tuple[int, list[Precision]]]] = {}
    for i, row in enumerate(bundle.subnet.precision):
        by_name: dict[str, Precision] = dict(zip(LINEARS, row, strict=True))
        for parts in _sets():
            have = [by_name[x] for x in parts]
            if why := _why_not(have):
                found.setdefault((", ".join(parts), why), []).append((i, have))
    problems = []
    for (names, why), places in found.items():
        block, have = places[0]
        instead = chosen.get(f"{module_name(block, names.split(', ')[0])}.weight", have[0])
        where = f"{len(places)} blocks, such as {block} ({', '.join(p.name for p in have)})"
        problems.append(
            f"{names}: {_REASONS[why].format(where)}; --nearest writes the same weights, there as {instead}"
        )
    return problems


def _why_not(have: Sequence[Precision]) -> str | None:
    """Which of `_REASONS` keeps vLLM from serving linears that it makes one matrix of."""
    if any(not p.is_float and p.weight_bits < 4 for p in have):
        return "narrow"
    return "differ" if len({scheme_of(p) for p in have}) > 1 else None


def nearest_precisions(bundle: Bundle) -> dict[str, Precision]:
    """Weight name -> the smallest precision served that holds it, for every linear that is not served as it is."""
    s, chosen = bundle.subnet, {}
    for i, row in enumerate(s.precision):
        by_name: dict[str, Precision] = dict(zip(LINEARS, row, strict=True))
        for parts in _sets():
            have = [by_name[x] for x in parts]
            if not _why_not(have):
                continue
            k = s.block_linears(i)[parts[0]][1]
            p = DENSE if all(x.is_float for x in have) else common_precision(have, k)
            chosen |= {f"{module_name(i, x)}.weight": p for x in parts if by_name[x] != p}
    return chosen


def served(bundle: Bundle) -> tuple[Bundle, list[str]]:
    """The nearest bundle that vLLM serves, with a note if that changed anything."""
    chosen = nearest_precisions(bundle)
    if not chosen:
        return bundle, []
    found, more = regridded(bundle, chosen)
    rounded = " rounded to fp16" if any(p.is_float for p in chosen.values()) else ""
    return found, [f"{len(chosen)} linears wider than searched, with the same weights{rounded}: {more} bytes"]


def quantisation_config(schemes: Mapping[str, Scheme | None]) -> dict[str, Any] | None:
    """`quantization_config` for `schemes` by module name; None if nothing is quantised."""
    found = dict.fromkeys(scheme for scheme in schemes.values() if scheme)
    if not found:
        return None
    groups = {
        f"group_{i}": scheme.config([name for name, s in schemes.items() if s == scheme])
        for i, scheme in enumerate(found)
    }
    kinds = {scheme.kind for scheme in found}
    return {
        "quant_method": "compressed-tensors",
        "format": kinds.pop() if len(kinds) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "config_groups": groups,
        "ignore": [name for name, scheme in schemes.items() if scheme is None],
    }


def notes(subnet: Subnet) -> list[str]:
    """What of a served subnet runs otherwise than it was searched."""
    found = []
    inside = quantised_linears(subnet)
    grouped = [p for p in inside.values() if not p.is_float and p.act_bits == 8 and (p.group or p.weight_bits < 8)]
    if grouped:
        found.append(f"activations of {len(grouped)} linears stay at 16 bits; the deployed kernels round them to int8")
    if any(scheme == Scheme("int-quantized", 8) for scheme in map(scheme_of, inside.values())):
        found.append("activations of w8a8 are rounded symmetrically with a scale a token, not asymmetrically a call")
    plain = [name for name, p in ((LM_HEAD, subnet.lm_head), (EMBED, subnet.embed)) if not p.is_float]
    if plain:
        found.append(f"{' and '.join(plain)} hold the quantised values in fp16: vLLM runs them unquantised")
    if any(not p.is_float and not p.symmetric for p in inside.values()):
        found.append(
            "4-bit weights have zero points: vLLM serves them, transformers 5.24 with compressed-tensors 0.20 does not "
            "load them; --format compressed-tensors-symmetric does without"
        )
    odd = sorted({n for n, p in inside.items() if scheme_of(p) and _marlin_misfit(subnet, n)})
    if odd:
        found.append(
            f"{len(odd)} linears (such as {odd[0]}) have sizes that vLLM's Marlin kernels do not take (inputs in 128s, "
            "outputs in 64s); whether another of its kernels does was not tried here"
        )
    return found


def _marlin_misfit(subnet: Subnet, name: str) -> bool:
    block, linear = int(name.split(".")[2]), name.rpartition(".")[2]
    n, k, _ = subnet.block_linears(block)[linear]
    return bool(k % 128 or n % 64)


def _sets() -> list[tuple[str, ...]]:
    alone = [x for x in LINEARS if not any(x in parts for parts in FUSED)]
    return [*FUSED, *((x,) for x in alone)]
