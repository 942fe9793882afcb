from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_pack import pack, write_model  # noqa: F401 (a fixture)

from hwfit import commands
from hwfit.errors import HwfitError
from hwfit.evaluate.perplexity import perplexity
from hwfit.evaluate.scorer import TorchScorer
from hwfit.evaluate_command import evaluate
from hwfit.models.llama import load_config, load_tokenizer, load_weights, torch_model
from hwfit.models.text import heldout_texts, pack_tokens


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "own.txt"
    path.write_text("\n\n".join(f"{i} bottles of beer on the wall, {i} bottles of beer." for i in range(99, 0, -1)))
    return path


def test_models_side_by_side(
    pack: Path,  # noqa: F811
    tmp_path: Path,
    text: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    good, bad = write_model(tmp_path / "good"), write_model(tmp_path / "bad", broken=True)
    found = commands.evaluate([str(good), str(bad)], 8, 4, text, 1, "cpu", "hellaswag,boolq", "1")
    told = capsys.readouterr().out
    assert "HellaSwag, 1-shot acc_norm, 8 documents" in told
    assert "where a WikiHow title follows a full stop" in told  # few-shot documents of the pack differ there
    assert "compression floor" in told
    assert "≈" in told
    rows = pack_tokens(heldout_texts(text), load_tokenizer(good), 4 * 256, 256)
    model = torch_model(load_config(good), load_weights(good))
    assert found[str(good)].perplexity == perplexity(TorchScorer(model), rows, progress=False)
    assert found[str(good)].perplexity != found[str(bad)].perplexity
    evaluate([str(good)], 8, 4, text, 1, "cpu", "hellaswag,boolq", "1", json=True)
    (plain,) = json.loads(capsys.readouterr().out).values()
    assert plain["tasks"]["boolq"]["floor"] == pytest.approx(0.75)
    assert plain["tasks"]["boolq"]["n"] == 8
    assert plain["tasks"]["hellaswag"]["value"] == found[str(good)].tasks["hellaswag"].value


def test_bad_options(tmp_path: Path) -> None:
    with pytest.raises(HwfitError, match="--rows 0"):
        commands.evaluate(["x"], rows=0)
    with pytest.raises(HwfitError, match="did you mean winogrande"):
        commands.evaluate(["x"], tasks="winograd")
    with pytest.raises(HwfitError, match="--data 'net'"):
        commands.evaluate(["x"], data="net")
    with pytest.raises(HwfitError, match="neither a known name"):
        commands.evaluate([str(tmp_path / "nowhere")])
