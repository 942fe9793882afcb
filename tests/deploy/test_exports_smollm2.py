"""The real SmolLM2-135M, cut and in mixed precision, as other tools read it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from deploy_llama import random_precisions
from export_llama import logits, norm_error, twin
from test_onnx_smollm2 import TEXT
from transformers import AutoModelForCausalLM, AutoTokenizer

from hwfit.deploy.bundle import Bundle, quantise_bundle
from hwfit.deploy.exporters import export_bundle
from hwfit.models.llama import load_config, load_shape, load_tokenizer, load_weights
from hwfit.subnet import Subnet

TEXTS = (
    TEXT,
    "In 2024 the bill was $1,234.50 (10 % off).",
    "naïve café 日本語 🙂\n\n\tdef f(x):\n    return x",
    "<|im_start|>user\nhi<|im_end|>\n",
)


def real(folder: Path, choices: tuple[str, ...]) -> Bundle:
    whole = Subnet.whole(load_shape(folder), "w32", "w8a8g32")
    kept = tuple(range(0, 30, 3))
    subnet = dataclasses.replace(whole, mlp=(1280,) * 10, blocks=kept, precision=whole.precision[:10])
    subnet = random_precisions(subnet, 0, choices)
    return quantise_bundle(load_weights(folder), load_shape(folder), load_config(folder), subnet)


@pytest.mark.slow
def test_gguf_in_transformers_with_its_own_tokenizer(smollm2: Path, tmp_path: Path) -> None:
    bundle = real(smollm2, ("w8a8", "w8a8g64", "w4a8g32"))
    exported = export_bundle(bundle, smollm2, tmp_path / "out", "gguf")
    mine, theirs = load_tokenizer(smollm2), AutoTokenizer.from_pretrained(exported.folder, gguf_file="model.gguf")
    for text in TEXTS:
        assert theirs(text)["input_ids"] == mine(text)["input_ids"]
    ids = np.array([mine(TEXT)["input_ids"][:64]])
    model = AutoModelForCausalLM.from_pretrained(exported.folder, gguf_file="model.gguf", dtype=torch.float32)
    error = norm_error(logits(model, ids), logits(twin(bundle), ids))
    print(f"relative error {error:.1e}, {exported.bytes / 1e6:.0f} MB")
    assert error < 1e-2


@pytest.mark.slow
def test_compressed_tensors_in_stock_transformers(smollm2: Path, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    bundle = real(smollm2, ("w8a16", "w8a8g64", "w4a8g32"))
    exported = export_bundle(bundle, smollm2, tmp_path / "out", "compressed-tensors-symmetric", take_nearest=True)
    ids = np.array([load_tokenizer(smollm2)(TEXT)["input_ids"][:64]])
    model = AutoModelForCausalLM.from_pretrained(exported.folder, dtype=torch.float32)
    error = norm_error(logits(model, ids), logits(twin(bundle), ids))
    print(f"relative error {error:.1e}, {exported.bytes / 1e6:.0f} MB")
    assert error < 1e-2
