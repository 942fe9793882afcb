"""`hwfit profile --config`: a table for a model that is not there, over several batches and prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwfit import commands
from hwfit.errors import HwfitError
from hwfit.lut_store.table import Table

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 256,
    "vocab_size": 512,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
}


@pytest.mark.slow
def test_a_config_alone_makes_a_table_for_every_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG))
    for _ in range(12):  # a busy machine may need more than one turn
        report = commands.profile(
            config=config, tables=tmp_path / "tables", precision=("w32", "w8a8"), coarse=True, minutes=0.6,
            whole_models=2, batch=(1, 4), prompt=(16,), context=64,
        )  # fmt: skip
        if not report.left:
            break
    frame = Table(tmp_path / "tables").read(report.device)
    linears = frame[frame["kind"] == "linear"]
    assert set(linears["m"]) == {1, 4, 16, 64}
    decode = frame[(frame["kind"] == "attention") & (frame["context"] == 64)]
    assert {1, 4} <= set(decode["m"])
    possible = report.planned - report.unsupported
    printed = " ".join(capsys.readouterr().out.split())
    assert f"the table has {report.measured + report.skipped} of {possible} cells that can run here" in printed


def test_bad_input_is_refused_before_anything_is_timed(tmp_path: Path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"architectures": ["GPT2LMHeadModel"], "hidden_size": 64}))
    for options, told in (
        ({}, "MODEL or --config"),
        ({"model": "x", "config": config}, "both are given"),
        ({"config": config}, "GPT2LMHeadModel is not supported"),
        ({"config": config}, "vocab_size is missing"),
        ({"config": tmp_path / "none.json"}, "cannot be read"),
        ({"config": config, "batch": (0,), "prompt": (-1,)}, "prompt -1 must be at least 1"),
    ):
        with pytest.raises(HwfitError, match=told):
            commands.profile(tables=tmp_path / "tables", **options)
    assert not (tmp_path / "tables").exists()
