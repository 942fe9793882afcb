"""The original's own text: sampled from its distribution, kept, and not written twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_folder import write_folder

from hwfit.errors import HwfitError
from hwfit.models import generate
from hwfit.models.generate import generated


def test_own_text_is_kept_and_likely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, cache = write_folder(tmp_path / "model"), tmp_path / "cache"
    first = generated(tmp_path / "model", 10, 12, cache, progress=False)
    assert first.shape == (10, 12)
    assert (first[:, 0] == 0).all()
    assert len({tuple(row) for row in first.tolist()}) == 10
    with torch.no_grad():
        logits = model(first).logits.log_softmax(-1)
    own = logits[:, :-1].gather(-1, first[:, 1:, None]).mean()
    assert float(own) > float(logits[:, :-1].mean()) + 0.5  # than any token
    monkeypatch.setattr(generate, "load_weights", lambda model: pytest.fail("written twice"))
    assert torch.equal(generated(tmp_path / "model", 10, 12, cache, progress=False), first)
    kept = sorted(cache.glob("generated-*"))
    kept[0].write_bytes(b"half")
    with pytest.raises(HwfitError, match="delete it to have it written again"):
        generated(tmp_path / "model", 10, 12, cache, progress=False)
