"""Rotary tables against transformers' own, plain and scaled, whole heads and the pairs that a smaller head keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from hwfit.errors import HwfitError
from hwfit.rotary import Rotary, Stretch

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SHORT = LLAMA3 | {"rope_theta": 10_000.0, "factor": 32.0, "original_max_position_embeddings": 128}


@pytest.mark.parametrize("options", [{"rope_type": "default", "rope_theta": 777.0}, LLAMA3, SHORT])
@pytest.mark.parametrize("head_size", [32, 128])
def test_equals_transformers(options: dict, head_size: int):
    config = LlamaConfig(hidden_size=4 * head_size, num_attention_heads=4, rope_parameters=dict(options))
    reference = LlamaRotaryEmbedding(config).inv_freq.double().numpy()
    cos, sin = Rotary.of(config.to_dict()).tables(head_size, 600)
    angles = np.arange(600)[:, None] * reference  # transformers' frequencies are fp32: 600 x 6e-8
    assert np.abs(cos - np.cos(angles)).max() < 1e-4
    assert np.abs(sin - np.sin(angles)).max() < 1e-4


@given(st.floats(100, 1e6), st.sampled_from([1, 2, 4]), st.booleans())
def test_a_smaller_head_keeps_a_subset_of_the_pairs(theta: float, step: int, stretched: bool):
    rotary = Rotary(theta, Stretch(8.0, 1.0, 4.0, 256.0) if stretched else None)
    whole, part = rotary.tables(64, 50), rotary.tables(64 // step, 50)
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_allclose(a[:, ::step], b, atol=1e-6)


def test_either_spelling_and_back():
    old = {"rope_theta": 500_000.0, "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"}}
    rotary = Rotary.of(old)
    assert rotary == Rotary.of({"rope_parameters": LLAMA3}) == Rotary.of({"rope_parameters": rotary.to_config()})
    assert Rotary.of({}) == Rotary.of({"rope_scaling": None, "rope_theta": 1e4}) == Rotary(10_000.0)
    assert Rotary.of({"rope_parameters": Rotary(5.0).to_config()}) == Rotary(5.0)


def test_what_cannot_be_computed_is_listed():
    with pytest.raises(HwfitError, match="rope type yarn is not supported; allowed: default, llama3"):
        Rotary.of({"rope_scaling": {"type": "yarn", "factor": 2.0}})
    with pytest.raises(HwfitError) as error:
        Rotary.of({"rope_parameters": LLAMA3 | {"factor": -1.0, "low_freq_factor": None}})
    assert len(error.value.problems) == 2
    with pytest.raises(HwfitError, match="must be above low_freq_factor"):
        Rotary.of({"rope_parameters": LLAMA3 | {"high_freq_factor": 1.0}})


def test_tables_are_single_precision():
    assert {t.dtype for t in Rotary().tables(16, 3)} == {np.dtype(np.float32)}
    assert torch.from_numpy(Rotary().tables(16, 3)[0]).shape == (3, 8)
