"""The front door: bad input gets every problem in words and exit code 2, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from small_model import write_small_model

from hwfit import cli, commands
from hwfit.errors import HwfitError
from hwfit.lut_store.shipped import open_table
from hwfit.lut_store.table import Table
from hwfit.profiler import protocol
from hwfit.profiler.device_kinds import fingerprint
from hwfit.profiler.protocol import Rules
from hwfit.subnet import ModelShape, Subnet

SHAPE = ModelShape(192, 6, 3, 32, 256, 6, 512)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def tables(model: Path, tmp_path_factory) -> Path:
    """A real table of the small model on this machine, a few seconds of measuring."""
    folder = tmp_path_factory.mktemp("tables")
    short = Rules(seconds=0.1, min_rounds=8, max_rounds=24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(protocol.RULES, "cpu", short)
        commands.profile(str(model), tables=folder, precision=["w32", "w4a8g32"], coarse=True, whole_models=0)
    return folder


def problems(call, *arguments, **options) -> str:
    with pytest.raises(HwfitError) as error:
        call(*arguments, **options)
    return "\n".join(error.value.problems)


def test_exit_code_two_and_every_problem_on_stderr(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "hwfit.cli", "search", "nowhere", "--budget", "speed=1ms", "--budget", "decode=x"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stderr.count("error:") == 2
    assert "'speed' is unknown" in done.stderr
    assert not list(tmp_path.iterdir())


def test_every_command_is_a_public_function_with_the_same_parameters():
    import inspect

    for command in cli.app.registered_commands:
        assert command.callback is not None
        ours = inspect.signature(command.callback).parameters
        theirs = inspect.signature(getattr(commands, command.callback.__name__)).parameters
        assert list(ours) == list(theirs), command.callback.__name__
        for name, parameter in ours.items():
            if isinstance(parameter.default, int | float | Path | str):
                assert parameter.default == theirs[name].default, (command.callback.__name__, name)


def test_unknown_architecture_and_missing_tokenizer_are_told_together(tmp_path: Path, model: Path):
    for file in model.iterdir():
        if not file.name.startswith("tokenizer"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((model / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"})
    )
    text = problems(commands.profile, str(tmp_path))
    assert "GPT2LMHeadModel" in text
    assert "tokenizer" in text


def test_unknown_precisions_are_all_named_with_the_nearest(model: Path, tmp_path: Path):
    text = problems(commands.profile, str(model), tables=tmp_path / "t", precision=["w5a8g32", "w4a8g32", "int4"])
    assert "'w5a8g32' is unknown" in text
    assert "'int4' is unknown" in text
    assert "did you mean" in text
    assert not (tmp_path / "t").exists()


def test_a_group_size_that_divides_no_width_lists_all_layers(model: Path, tmp_path: Path):
    text = problems(commands.profile, str(model), tables=tmp_path / "t", precision=["w4a8g128"])
    for layer in ("q_proj", "gate_proj", "lm_head"):
        assert layer in text
    assert "does not divide its input width 192" in text
    assert not (tmp_path / "t").exists()


def test_predict_prices_the_model_and_a_subnet_file(model: Path, tables: Path, tmp_path: Path):
    found = commands.predict(str(model), tables=tables)
    assert found["w4a8g32"]["decode"].value < found["w32"]["decode"].value
    path = tmp_path / "s.json"
    path.write_text(Subnet.whole(SHAPE, "w4a8g32", "w8a8g32").to_json())
    again = commands.predict(str(path), tables=tables)
    assert again["s.json"]["decode"].value == found["w4a8g32"]["decode"].value


def test_predict_takes_a_config_and_the_precisions_of_another_devices_table(tmp_path: Path):
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "head_dim": 128}
    config |= {"intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 128_256}
    config |= {"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 5e5, "tie_word_embeddings": False}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    key = next(k for k in open_table("shipped").devices() if k.startswith("cuda-"))
    found = commands.predict(None, key, Path("shipped"), config=path, prompt=1024, context=1024)
    assert {"w16a16", "w4a16g128", "w8a8"} <= found.keys()
    assert found["w4a16g128"]["decode"].value < found["w8a8"]["decode"].value < found["w16a16"]["decode"].value
    assert found["w8a8"]["decode_joules"].value < found["w16a16"]["decode_joules"].value
    text = problems(commands.predict, str(tmp_path), key, Path("shipped"), config=path)
    assert "give MODEL or --config FILE; both are given" in text


def test_a_budget_below_the_fastest_subnet_names_the_fastest_before_any_training(
    model: Path, tables: Path, tmp_path: Path
):
    text = problems(
        commands.search,
        str(model),
        ["decode=1us", "memory=1KB"],
        tmp_path / "run",
        tables=tables,
        text=model / "text.txt",
        precision=["w32", "w4a8g32"],
    )
    assert "decode=0.001ms is below the least" in text
    assert "memory=0.001MB is below the least" in text
    assert not (tmp_path / "run" / "subnets").exists()


def test_an_unknown_strategy_is_told_with_the_nearest_and_all_else_that_is_wrong():
    wrong = {"strategy": "evolution", "evaluations": 0, "lr": -1, "rank_by": "loss"}
    text = problems(commands.search, "nowhere", ["decode=6ms"], **wrong)
    assert "--strategy 'evolution' is unknown; allowed: bits, evolutionary" in text
    assert "did you mean evolutionary?" in text
    assert "--evaluations 0 must be at least 1" in text
    assert "--rank-by 'loss' is unknown; allowed: damages, losses (did you mean losses?)" in text
    assert "--lr -1 must be above 0" in text


@pytest.mark.slow
def test_search_by_another_strategy(model: Path, tables: Path, tmp_path: Path):
    whole = commands.predict(str(model), tables=tables)["w4a8g32"]["decode"].value
    options = {"tables": tables, "text": model / "text.txt", "precision": ["w32", "w4a8g32"], "train_on": "cpu"}
    limits = [f"decode={1.2 * whole * 1e3}ms"]
    run = {"strategy": "evolutionary", "evaluations": 4, "distil_steps": 0, **options}
    (folder,) = commands.search(str(model), limits, tmp_path / "run", **run).values()
    assert Subnet.load(folder / "subnet.json")
    assert json.loads((tmp_path / "run" / "found" / "subnet.json").read_text())["kind"] == "evolutionary"
    assert len((tmp_path / "run" / "checkpoints" / "losses-subnet.jsonl").read_text().splitlines()) == 5


def test_a_table_of_another_device_is_refused_by_name(tables: Path, tmp_path: Path, monkeypatch, model: Path):
    mine = fingerprint("cpu").key
    frame = Table(tables).read(mine)
    assert len(frame) > 20
    text = problems(lambda: Table(tables).read("nvidia-h200"))
    assert mine in text
    assert "hwfit profile" in text


def test_a_truncated_part_is_named_and_the_rest_stays(tables: Path, tmp_path: Path, model: Path):
    import shutil

    copy = tmp_path / "tables"
    shutil.copytree(tables, copy)
    part = Table(copy).parts()[0]
    part.write_bytes(part.read_bytes()[:-20])
    text = problems(commands.predict, str(model), tables=copy)
    assert str(part) in text
    assert "truncated" in text


def test_a_model_with_a_missing_tensor_is_refused(model: Path, tmp_path: Path):
    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(model / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "model.layers.2.mlp.up_proj.weight" in problems(commands.profile, str(tmp_path))


def test_export_format_and_folder_are_checked(tmp_path: Path):
    assert "allowed: compressed-tensors, compressed-tensors-symmetric, gguf, hf, onnx" in problems(
        commands.export, tmp_path, format="ggf"
    )
    assert "subnet.json" in problems(commands.export, tmp_path)
