from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_folder import tiny_llama, write_gguf

from hwfit.errors import HwfitError
from hwfit.models.gguf_file import read_gguf
from hwfit.models.llama import torch_model


@pytest.mark.parametrize("tied", [False, True])
def test_reads_back_what_llama_cpp_would_write(tmp_path: Path, tied: bool) -> None:
    model = tiny_llama(tied)
    write_gguf(tmp_path / "m.gguf", model)
    config, weights = read_gguf(tmp_path / "m.gguf")
    assert set(weights) == set(model.state_dict())
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
    ids = torch.arange(3, 23)[None]
    with torch.inference_mode():
        difference = torch_model(config, weights)(ids).logits - model(ids).logits
    assert difference.abs().max() < 1e-5
    expected = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "rope_theta": 5000.0, "head_dim": 16}
    assert {key: config[key] for key in expected} == expected


def test_dequantises(tmp_path: Path) -> None:
    model = tiny_llama(hidden=64)
    write_gguf(tmp_path / "m.gguf", model, quantise=True)
    _, weights = read_gguf(tmp_path / "m.gguf")
    for name, weight in model.state_dict().items():
        step = weight.abs().max() / 127
        assert 0 <= (weights[name] - weight).abs().max() <= step, name
    assert not torch.equal(weights["lm_head.weight"], model.state_dict()["lm_head.weight"])


def test_another_architecture(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", tiny_llama(), architecture="gemma")
    with pytest.raises(HwfitError, match="GGUF architecture gemma is not supported; allowed: llama"):
        read_gguf(tmp_path / "m.gguf")
