from __future__ import annotations

from pathlib import Path

import pytest
import torch
from byte_tokens import byte_tokenizer
from scored_model import Uniform

from hwfit.evaluate import judge as judge_module
from hwfit.evaluate import lm_harness
from hwfit.evaluate.judge import Exam, judge


def test_weights_beside_a_large_graph_count_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs above 1.5 GB keep their weights in a file of their own; other weights are another model."""
    opened: list[Path] = []

    def open_scorer(device: str, path: Path, threads: int) -> Uniform:
        opened.append(path)
        return Uniform()

    monkeypatch.setattr(judge_module, "open_scorer", open_scorer)
    monkeypatch.setattr(lm_harness, "accuracy", lambda *arguments: {})
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"graph")
    (tmp_path / "model.onnx.data").write_bytes(b"weights")
    tokens = torch.zeros(2, 8, dtype=torch.long)
    first = judge(tmp_path, Exam(), tokens, progress=False)
    assert judge(tmp_path, Exam(), tokens, progress=False) == first
    assert len(opened) == 1
    (tmp_path / "model.onnx.data").write_bytes(b"trained")
    judge(tmp_path, Exam(), tokens, progress=False)
    assert len(opened) == 2
