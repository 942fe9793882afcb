"""Hugging Face export: a subnet as a plain directory that `AutoModelForCausalLM.from_pretrained` loads."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from hwfit.deploy.bundle import Bundle, dense_weights
from hwfit.deploy.folder import copy_tokenizer
from hwfit.deploy.slice import subnet_config
from hwfit.files import replacing, write_text


def write_hf(bundle: Bundle, tokenizer: Path, folder: Path) -> Path:
    """fp32 weights with the values the quantised model computes with; activations are not rounded there.

    Raises `HwfitError` if MLP widths differ between blocks, which a Hugging Face Llama cannot hold.
    """
    subnet_config(bundle.config, bundle.subnet)
    weights = {name: w.contiguous() for name, w in dense_weights(bundle).items()}
    with replacing(folder / "model.safetensors") as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
    copy_tokenizer(tokenizer, folder)
    write_text(folder / "config.json", json.dumps({**bundle.config, "dtype": "float32"}, indent=1))
    return folder
