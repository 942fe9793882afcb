"""A searched subnet of the tiny Llama as a folder with a tokenizer, and references for what exports compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from byte_tokens import byte_tokenizer
from deploy_llama import hook_inputs, llama_with, narrow, parts, random_precisions, tiny_llama
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from hwfit.deploy.bundle import Bundle, quantise_bundle, rounded_weights, save_bundle
from hwfit.deploy.slice import subnet_config
from hwfit.precision import Precision
from hwfit.subnet import LINEARS

MIXED = (
    "w32",
    "w16a16",
    "w8a8",
    "w8a8g32",
    "w4a8g32",
    "w4a8g64",
    "w4a16g32",
    "w3a16g32",
    "w2a8g32",
    "w8a16",
    "w4a16",
    "fp8",
)
SERVED = ("w8a8g32", "w4a8g32", "w8a8", "w4a16", "w8a16", "w16a16", "fp8")
"""Precisions that vLLM serves as they are, but for fused matrices."""
IDS = np.random.default_rng(0).integers(0, 512, (2, 24))
TEXT = "Hello, world of 1234 tests!"


def searched(
    choices: tuple[str, ...] = MIXED, seed: int = 0, rope: dict[str, Any] | None = None, **sizes: Any
) -> Bundle:
    """A narrower tiny Llama without its block 2, each linear at a random one of `choices`."""
    overrides = {"rope_parameters": rope} if rope else {}
    weights, shape, config = parts(tiny_llama(intermediate_size=256, bos_token_id=1, eos_token_id=2, **overrides))
    return quantise_bundle(weights, shape, config, random_precisions(narrow(shape, **sizes), seed, choices))


def merging_tokenizer(digits: bool = False) -> PreTrainedTokenizerFast:
    """Of bytes, with some merges."""
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w")]
    return byte_tokenizer(["".join(m) for m in merges], merges, digits)


def write_searched(bundle: Bundle, folder: Path) -> Path:
    """What `hwfit search` leaves of a subnet."""
    save_bundle(bundle, folder)
    merging_tokenizer().save_pretrained(folder)
    return folder


def module_precisions(bundle: Bundle) -> dict[str, Precision]:
    found = {"lm_head": bundle.subnet.lm_head}
    for i, row in enumerate(bundle.subnet.precision):
        for name, p in zip(LINEARS, row, strict=True):
            found[f"model.layers.{i}.{'self_attn' if name[0] in 'qkvo' else 'mlp'}.{name}"] = p
    return found


def padded(weights: dict[str, Tensor], widths: Sequence[int]) -> dict[str, Tensor]:
    """Every block's MLP as wide as the widest, with zeros."""
    out = dict(weights)
    for i, width in enumerate(widths):
        more = max(widths) - width
        for name, pad in (("gate_proj", (0, 0, 0, more)), ("up_proj", (0, 0, 0, more)), ("down_proj", (0, more))):
            key = f"model.layers.{i}.mlp.{name}.weight"
            out[key] = torch.nn.functional.pad(weights[key], pad)
    return out


def twin(bundle: Bundle, change: Callable[[Precision, Tensor], Tensor] = lambda p, x: x) -> LlamaForCausalLM:
    """The fake-quantised subnet in torch; `change` rounds a linear's inputs. Each block has its own MLP width."""
    weights = rounded_weights(bundle)
    config = subnet_config(bundle.config, bundle.subnet, uneven_mlp=True)
    model = llama_with(padded(weights, bundle.subnet.mlp), config)
    precisions = module_precisions(bundle)
    hook_inputs(model, lambda name, x: change(precisions[name], x))
    return model


@torch.no_grad()
def logits(model: Any, ids: np.ndarray = IDS) -> np.ndarray:
    return model(torch.from_numpy(ids)).logits.float().numpy()


def a_token(p: Precision, x: Tensor) -> Tensor:
    """Inputs as compressed-tensors rounds them, written from its documentation: int8 or e4m3, one scale a token."""
    if p.float8:
        scale = x.abs().amax(-1, keepdim=True) / 448
        return (x / scale).to(torch.float8_e4m3fn).float() * scale
    if p.name != "w8a8":
        return x
    scale = x.abs().amax(-1, keepdim=True) / 127.5
    return (x / scale).clamp(-128, 127).round() * scale


def norm_error(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))
