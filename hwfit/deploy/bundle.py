"""Bundle: a subnet with its weights as deployed, quantised ones as codes on a grid. The currency between search and
deployment; a folder of `subnet.json`, `config.json` and `model.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hwfit.deploy.slice import (
    EMBED,
    FINAL_NORM,
    LM_HEAD,
    NORMS,
    module_name,
    slice_energy,
    slice_weights,
    subnet_config,
)
from hwfit.errors import HwfitError, raise_all
from hwfit.files import parse_json, replacing, write_text
from hwfit.kernels.pack import pack_bits, unpack_bits
from hwfit.kernels.quantise import Grid, Quantised, clipped_grid, dequantise, fake_quantise, quantise
from hwfit.precision import Precision
from hwfit.subnet import ModelShape, Subnet

WEIGHTS = "model.safetensors"
FP8 = Precision(8, 8, float8=True)


@dataclass(frozen=True)
class Bundle:
    """`tensors` has the sliced model's Hugging Face names; integer precisions are `Quantised`, the rest plain."""

    subnet: Subnet
    config: dict[str, Any]
    tensors: dict[str, Tensor | Quantised]


def weight_specs(subnet: Subnet) -> dict[str, tuple[int, int, Precision]]:
    """`weight name -> (n, k, precision)` of every linear and the embedding."""
    specs = {
        f"{module_name(i, linear)}.weight": spec
        for i in range(len(subnet.blocks))
        for linear, spec in subnet.block_linears(i).items()
    }
    specs[f"{LM_HEAD}.weight"] = (subnet.vocab, subnet.hidden, subnet.lm_head)
    specs[f"{EMBED}.weight"] = (subnet.vocab, subnet.hidden, subnet.embed)
    return specs


def norm_names(subnet: Subnet) -> list[str]:
    """Names of the gains, each `[hidden]`."""
    blocks = [f"model.layers.{i}.{norm}.weight" for i in range(len(subnet.blocks)) for norm in NORMS]
    return [*blocks, f"{FINAL_NORM}.weight"]


def quantise_bundle(
    weights: Mapping[str, Tensor],
    shape: ModelShape,
    config: Mapping[str, Any],
    subnet: Subnet,
    energy: Mapping[str, Tensor] | None = None,
) -> Bundle:
    """Slice the original's weights, then quantise every linear on its own `clipped_grid`.

    `energy` is the mean square of each linear's inputs, `[k]` by original module name; linears without one are
    clipped by plain squared error. Raises `HwfitError` if the subnet is no part of the model.
    """
    sliced = slice_weights(weights, shape, subnet)
    energies = slice_energy(energy or {}, shape, subnet)
    tensors: dict[str, Tensor | Quantised] = dict(sliced)
    for name, (_, _, p) in weight_specs(subnet).items():
        w = sliced[name]
        grid = None if p.is_float else clipped_grid(w, p, energies.get(name.removesuffix(".weight")))
        tensors[name] = stored(w, p, grid)
    return Bundle(subnet, subnet_config(config, subnet, uneven_mlp=True), tensors)


def stored(w: Tensor, p: Precision, grid: Grid | None) -> Tensor | Quantised:
    """A weight as a bundle keeps it: codes on its grid, or halves, or fp32."""
    if grid is not None:
        return quantise(w, p, grid)
    return w.half() if p.weight_bits == 16 else w


def dense_weights(bundle: Bundle) -> dict[str, Tensor]:
    """fp32 weights, dequantised; those of fp8, which a bundle keeps in fp32 for the kernel to round, as they are."""
    return {n: dequantise(t) if isinstance(t, Quantised) else t.float() for n, t in bundle.tensors.items()}


def rounded_weights(bundle: Bundle) -> dict[str, Tensor]:
    """fp32 weights with the values that the deployed model computes with, fp8 included."""
    dense = dense_weights(bundle)
    eighth = [name for name, (_, _, p) in weight_specs(bundle.subnet).items() if p.float8]
    return dense | {name: fake_quantise(dense[name], FP8) for name in eighth}


def random_bundle(subnet: Subnet, config: Mapping[str, Any], seed: int = 0) -> Bundle:
    """Random weights of a sane size, for timing: latency does not depend on values. `config` is the original's."""
    subnet.check()
    rng = np.random.default_rng(seed)
    tensors: dict[str, Tensor | Quantised] = {name: torch.ones(subnet.hidden) for name in norm_names(subnet)}
    for name, (n, k, p) in weight_specs(subnet).items():
        if p.is_float:
            w = torch.from_numpy(rng.random((n, k), np.float32)).sub_(0.5).mul_((12 / k) ** 0.5)
            tensors[name] = w.half() if p.weight_bits == 16 else w
            continue
        raw = rng.integers(0, 2**64, -(-n * k // 8), np.uint64).view(np.uint8)[: n * k].reshape(n, k)
        codes = np.maximum(raw.view(np.int8), -127) if p.symmetric else raw & np.uint8(2**p.weight_bits - 1)
        spread = 2**p.weight_bits / 12**0.5  # standard deviation of uniform codes
        scales = torch.full((n, k // p.group if p.group else 1), 1 / (spread * k**0.5))
        zeros = None if p.symmetric else torch.full_like(scales, 2.0 ** (p.weight_bits - 1))
        tensors[name] = Quantised(torch.from_numpy(codes), Grid(scales, zeros), p)
    return Bundle(subnet, subnet_config(config, subnet, uneven_mlp=True), tensors)


def save_bundle(bundle: Bundle, folder: Path) -> Path:
    """Writes the folder; `subnet.json` comes last, so a folder that has one is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / "subnet.json"
    marker.unlink(missing_ok=True)
    flat: dict[str, Tensor] = {}
    for name, t in bundle.tensors.items():
        if isinstance(t, Quantised):
            packed = (
                t.codes if t.precision.symmetric else torch.from_numpy(pack_bits(t.codes.numpy(), _bits(t.precision)))
            )
            flat[f"{name}.codes"], flat[f"{name}.scales"] = packed.contiguous(), t.grid.scales.contiguous()
            if t.grid.zeros is not None:
                flat[f"{name}.zeros"] = t.grid.zeros.to(torch.uint8)
        else:
            flat[name] = t.contiguous()
    with replacing(folder / WEIGHTS) as temporary:
        save_file(flat, temporary, metadata={"format": "hwfit"})
    write_text(folder / "config.json", json.dumps(bundle.config, indent=1))
    write_text(marker, bundle.subnet.to_json())
    return folder


def load_bundle(folder: Path) -> Bundle:
    """Validated inverse of `save_bundle`. Raises `HwfitError` listing missing files and wrong or missing tensors."""
    names = ("subnet.json", "config.json", WEIGHTS)
    raise_all([f"{folder}: no {n}; a bundle has {', '.join(names)}" for n in names if not (folder / n).is_file()])
    subnet = Subnet.load(folder / "subnet.json")
    try:
        config = parse_json((folder / "config.json").read_text())
        flat = load_file(folder / WEIGHTS)
        shape = ModelShape.from_config(config)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise HwfitError(
            f"{folder}: not a readable bundle ({type(error).__name__}: {error}); write it again"
        ) from error
    problems = [f"{folder}/config.json: {p} (from subnet.json)" for p in _contradictions(shape, subnet)]
    tensors: dict[str, Tensor | Quantised] = {}

    def take(name: str, size: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
        t = flat.pop(name, None)
        if t is None:
            problems.append(f"{folder}/model.safetensors: tensor '{name}' is missing")
        elif tuple(t.shape) != size or t.dtype != dtype:
            problems.append(
                f"{folder}/model.safetensors: '{name}' is {t.dtype} {tuple(t.shape)}; must be {dtype} {size}"
            )
        elif t.is_floating_point() and not bool(t.isfinite().all()):
            problems.append(f"{folder}/model.safetensors: '{name}' holds a value that is not finite")
        else:
            return t
        return None

    def keep(name: str, t: Tensor | Quantised | None) -> None:
        if t is not None:
            tensors[name] = t

    for name in norm_names(subnet):
        keep(name, take(name, (subnet.hidden,), torch.float32))
    for name, (n, k, p) in weight_specs(subnet).items():
        if p.is_float:
            keep(name, take(name, (n, k), torch.float16 if p.weight_bits == 16 else torch.float32))
            continue
        grid = (n, k // p.group if p.group else 1)
        scales = take(f"{name}.scales", grid, torch.float32)
        if p.symmetric:
            codes = take(f"{name}.codes", (n, k), torch.int8)
            keep(name, None if codes is None or scales is None else Quantised(codes, Grid(scales), p))
            continue
        packed = take(f"{name}.codes", (n, -(-k * _bits(p) // 8)), torch.uint8)
        zeros = take(f"{name}.zeros", grid, torch.uint8)
        if packed is None or scales is None or zeros is None:
            continue
        if int(zeros.max()) >= 2**p.weight_bits:
            problems.append(f"{folder}/model.safetensors: '{name}.zeros' exceeds {2**p.weight_bits - 1}")
        codes = torch.from_numpy(np.ascontiguousarray(unpack_bits(packed.numpy(), _bits(p), k)))
        tensors[name] = Quantised(codes, Grid(scales, zeros.float()), p)
    problems += [f"{folder}/model.safetensors: tensor '{name}' belongs to no part of the subnet" for name in flat]
    raise_all(problems)
    return Bundle(subnet, config, tensors)


def _bits(p: Precision) -> int:
    """Bits a code is stored in: 3-bit codes take a nibble."""
    return 4 if p.weight_bits == 3 else p.weight_bits


def _contradictions(shape: ModelShape, subnet: Subnet) -> list[str]:
    """Sizes of `config.json` that differ from the subnet's."""
    want = {
        "hidden": subnet.hidden,
        "heads": subnet.heads,
        "kv_heads": subnet.kv_heads,
        "head_size": subnet.head_size,
        "mlp": max(subnet.mlp),
        "blocks": len(subnet.blocks),
        "vocab": subnet.vocab,
    }
    return [f"{name} is {have}; must be {w}" for name, w in want.items() if (have := getattr(shape, name)) != w]
