from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_folder import tiny_llama, write_folder
from transformers import AutoModelForCausalLM

from hwfit.errors import HwfitError
from hwfit.models import llama
from hwfit.subnet import ModelShape

IDS = torch.arange(3, 43).view(2, 20)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama") / "model"
    write_folder(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "model")


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("tied", [False, True])
def test_reads_what_transformers_reads(tmp_path: Path, tied: bool) -> None:
    write_folder(tmp_path, tied)
    path = llama.open_model(tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    weights = llama.load_weights(path)
    model = llama.torch_model(llama.load_config(path), weights)
    with torch.inference_mode():
        assert torch.equal(model(IDS).logits, reference(IDS).logits)
    assert set(weights) == set(llama.tensor_shapes(llama.load_shape(path)))
    assert llama.load_shape(path) == ModelShape(48, 4, 2, 16, 64, 3, 260)
    assert weights["lm_head.weight"].data_ptr() != weights["model.embed_tokens.weight"].data_ptr()
    assert llama.load_tokenizer(path).decode(llama.load_tokenizer(path)("abc")["input_ids"]) == "abc"


@pytest.mark.parametrize("spelling", ["rope_theta", "rope_parameters"])
def test_rope_theta_of_either_spelling(folder: Path, spelling: str) -> None:
    old, new = {"rope_theta": 777.0}, {"rope_parameters": {"rope_type": "default", "rope_theta": 777.0}}
    edit(folder, **({"rope_parameters": None} | old if spelling == "rope_theta" else new))
    config = llama.load_config(folder)
    assert llama.torch_model(config, llama.load_weights(folder)).config.rope_parameters["rope_theta"] == 777.0


def test_hidden_that_heads_do_not_divide() -> None:
    reference = tiny_llama(hidden=48)
    config = reference.config.to_dict() | {"hidden_size": 46}
    cut = {
        name: (w[:46] if "o_proj" in name or "down_proj" in name or w.ndim == 1 else w[:, :46]).contiguous()
        for name, w in reference.state_dict().items()
    }
    model = llama.torch_model(config, cut)
    with torch.inference_mode():
        assert model(IDS).logits.isfinite().all()
    assert model.config.hidden_size == 46


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


DEFECTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "architecture": (lambda f: edit(f, architectures=["GPT2LMHeadModel"]), "architecture GPT2LMHeadModel is not"),
    "attention bias": (lambda f: edit(f, attention_bias=True), "attention_bias=True is not supported; allowed: False"),
    "mlp bias": (lambda f: edit(f, mlp_bias=True), "mlp_bias=True"),
    "activation": (lambda f: edit(f, hidden_act="gelu"), "hidden_act=gelu is not supported; allowed: silu"),
    "rope": (lambda f: edit(f, rope_parameters={"rope_type": "llama3", "factor": 8.0}), "low_freq_factor=None of rope"),
    "old rope": (lambda f: edit(f, rope_parameters=None, rope_scaling={"type": "linear"}), "rope type linear"),
    "quantised": (lambda f: edit(f, quantization_config={"bits": 4}), "already quantised"),
    "tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"no \*.safetensors"),
    "truncated weights": (truncate, "model.safetensors is broken"),
    "width": (
        lambda f: edit(f, intermediate_size=60),
        r"gate_proj.weight is \(64, 48\), but config",
    ),
    "missing block": (lambda f: edit(f, num_hidden_layers=4), "lack 9 tensors"),
    "extra block": (lambda f: edit(f, num_hidden_layers=2), "9 unknown tensors"),
    "missing key": (lambda f: edit(f, vocab_size=None), "vocab_size is missing"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json cannot be read"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defect_is_named(folder: Path, defect: str) -> None:
    llama.check_model(folder)
    spoil, message = DEFECTS[defect]
    spoil(folder)
    with pytest.raises(HwfitError, match=message):
        llama.open_model(folder)


def test_all_defects_at_once(folder: Path) -> None:
    for defect in ("architecture", "mlp bias", "activation", "tokenizer", "no weights"):
        DEFECTS[defect][0](folder)
    with pytest.raises(HwfitError) as caught:
        llama.check_model(folder)
    assert len(caught.value.problems) == 5
    assert all(problem.startswith(str(folder)) for problem in caught.value.problems)


def test_unknown_name_suggests_a_known_one() -> None:
    with pytest.raises(HwfitError, match=re.escape("did you mean smollm2-135m?")):
        llama.open_model("smolm2-135")


def test_hub_failure_is_one_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(HwfitError, match=r"'owner/name' cannot be fetched from the hub \(ConnectionError\)"):
        llama.open_model("owner/name")
