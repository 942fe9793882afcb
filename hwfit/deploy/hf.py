"""Hugging Face export: a subnet as a plain directory that `AutoModelForCausalLM.from_pretrained` loads."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from hwfit.deploy.bundle import WEIGHTS, Bundle, rounded_weights
from hwfit.deploy.folder import copy_tokenizer
from hwfit.deploy.regrid import even_width, pad_mlp
from hwfit.deploy.slice import subnet_config
from hwfit.files import replacing, write_text


def write_hf(bundle: Bundle, tokenizer: Path, folder: Path) -> list[str]:
    """fp32 weights with the values the quantised model computes with; notes on what differs from it.

    Raises `HwfitError` if MLP widths differ between blocks, which a Hugging Face Llama cannot hold.
    """
    subnet_config(bundle.config, bundle.subnet)
    weights = {name: w.contiguous() for name, w in rounded_weights(bundle).items()}
    with replacing(folder / WEIGHTS) as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
    copy_tokenizer(tokenizer, folder)
    write_text(folder / "config.json", json.dumps({**bundle.config, "dtype": "float32"}, indent=1))
    rounded = any(p.act_bits < 16 for _, _, p in bundle.subnet.linears.values())
    notes = ["weights are fp32 with the quantised values: the same model, neither smaller nor faster for its bits"]
    return notes + (["activations are not rounded, as the deployed kernels round them"] if rounded else [])


def uneven_problems(bundle: Bundle) -> list[str]:
    """Why no Llama of transformers or vLLM holds the bundle, one line or none."""
    widths = sorted(set(bundle.subnet.mlp))
    if len(widths) == 1:
        return []
    return [
        f"subnet: MLP widths differ between blocks ({widths}) and a Llama has one for all; the nearest is "
        f"{even_width(bundle)} in every block, filled up with zeros (the same function), which --nearest writes; "
        "--format onnx and gguf take the widths as they are"
    ]


def evened(bundle: Bundle) -> tuple[Bundle, list[str]]:
    """With one MLP width, and a note if that took zeros."""
    if len(set(bundle.subnet.mlp)) == 1:
        return bundle, []
    width = even_width(bundle)
    padded = pad_mlp(bundle, width)
    more = padded.subnet.weight_bytes / bundle.subnet.weight_bytes - 1
    zeros = f"MLP {width} wide in every block, filled up with zeros: the same function"
    return padded, [f"{zeros}, {more:.0%} more bytes, and as slow as a model of that width"]
