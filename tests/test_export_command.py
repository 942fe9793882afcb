"""`hwfit export` and `hwfit generate` as a user runs them, and what the model card tells of a run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from small_model import write_small_model
from typer.testing import CliRunner

from hwfit import cli, export_command
from hwfit.deploy.bundle import load_bundle, quantise_bundle, save_bundle
from hwfit.deploy.exporters import FORMATS
from hwfit.deploy.folder import copy_tokenizer
from hwfit.errors import HwfitError
from hwfit.models.llama import load_config, load_shape, load_weights
from hwfit.precision import Precision
from hwfit.report.results import Results, Row, Score, Timing, write_results
from hwfit.subnet import Subnet
from hwfit.workload import Workload

NAME = "joint 85%"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_small_model(tmp_path_factory.mktemp("small"))
    (folder / "hwfit.json").write_text(
        json.dumps({"name": "small", "origin": "a made-up Llama", "source": "tests", "licence": "Apache-2.0"})
    )
    return folder


@pytest.fixture(scope="module")
def subnet(model: Path) -> Subnet:
    whole = Subnet.whole(load_shape(model), "w4a8g32", "w8a8g32")
    row = (*whole.precision[0][:6], Precision.parse("w8a8"))
    return dataclasses.replace(
        whole, blocks=(0, 1, 2, 5), mlp=(256,) * 4, precision=(row,) * 4, lm_head=Precision.parse("w8a8")
    )


@pytest.fixture
def run(model: Path, subnet: Subnet, tmp_path: Path) -> Path:
    """A run folder with one distilled subnet, as `hwfit search` leaves it."""
    folder = tmp_path / "run" / "subnets" / NAME
    save_bundle(quantise_bundle(load_weights(model), load_shape(model), load_config(model), subnet), folder)
    copy_tokenizer(model, folder)
    (folder / "distilled.json").write_text(json.dumps({"key": "k", "losses": [0.5] * 28}))
    found = tmp_path / "run" / "found" / f"{NAME}.json"
    found.parent.mkdir()
    found.write_text(json.dumps({"budget": [["decode", 0.00387]]}))
    return tmp_path / "run"


def report(run: Path, subnet: Subnet) -> None:
    """A finished run's results.json; its figures are made up."""

    def row(name: str, kind: str, ms: float, perplexity: float) -> Row:
        t = Timing(ms / 1e3, ms / 1e3 * 0.98, ms / 1e3 * 1.02, ms / 1e3 * 1.05)
        scores = {"piqa": Score(0.61, 0.05, 40)}
        return Row(
            *(name, kind, t, t, 1e8, perplexity, perplexity * 0.8, perplexity * 1.2, subnet, 4.2),  # type: ignore[arg-type]
            budget={"decode": 0.00387} if kind == "joint" else None,
            accuracy=scores,
        )

    rows = (row("original fp32", "original", 17.2, 29.7), row(NAME, "joint", 3.77, 82.3))
    provenance = {
        "hwfit": "0.1.0",
        "device": "cpu-made-up",
        "table": "tables-v1",
        "latency": "p10 of rounds",
        "training text": "train splits of BoolQ",
    }
    write_results(
        Results("small", "2026-01-01", {"name": "Imaginary CPU"}, Workload(), rows, provenance=provenance), run
    )


def test_a_card_tells_what_the_run_knows(run: Path, subnet: Subnet) -> None:
    report(run, subnet)
    path = export_command.export(run / "subnets" / NAME, format="gguf")
    assert path == run / "subnets" / NAME / "gguf" / "model.gguf"
    card = (path.parent / "README.md").read_text()
    for part in (
        "license: apache-2.0",
        "a made-up Llama",
        "28 distillation steps from the original; train splits of BoolQ",
        "blocks: 4, the original's 0–2, 5",
        "budget: decode=3.87ms",
        "Imaginary CPU (cpu-made-up)",
        "tables-v1",
        "| decode, one token at context 128 | 3.96 ms | 3.77 ms (3.69–3.85) |",
        "| perplexity on held-out text (95 %) | 82.3 (65.8–98.8) | 29.7 (23.8–35.6) |",
        "| piqa, 40 documents | 61.0% ± 5.0% | 61.0% ± 5.0% |",
        "w4a8g32 -> Q4_1",
        "llama-cli -m model.gguf",
    ):
        assert part in card, part


def test_a_search_without_a_report_knows_its_budget(run: Path) -> None:
    path = export_command.export(run / "subnets" / NAME, format="hf")
    card = (path / "README.md").read_text()
    assert "budget: decode=3.87ms" in card
    assert "device: unknown" in card
    assert "28 distillation steps" in card


@pytest.mark.parametrize(
    "text", ["", "[]", '{"budget": [["speed", 1]]}', '{"budget": [["decode", 0], 3]}', "[" * 100_000]
)
def test_damaged_records_of_a_run_are_unknown(run: Path, text: str) -> None:
    folder = run / "subnets" / NAME
    for record in (run / "found" / f"{NAME}.json", folder / "distilled.json", folder / "origin.json"):
        record.write_text(text)
    card = (export_command.export(folder, format="gguf").parent / "README.md").read_text()
    assert "budget: unknown" in card
    assert "training: unknown" in card
    assert "licence: unknown" in card


def test_a_folder_in_no_run_says_unknown(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "deep" / "er" / "alone"
    alone.parent.mkdir(parents=True)
    (run / "subnets" / NAME).rename(alone)
    (alone / "distilled.json").unlink()
    (alone / "origin.json").write_text("{")
    path = export_command.export(alone, out=tmp_path / "out", format="onnx")
    card = (path.parent / "README.md").read_text()
    assert card.count("unknown") + card.count("Unknown") >= 7
    assert "license:" not in card.split("---")[1]


@pytest.mark.parametrize("format", FORMATS)
def test_a_subnet_without_weights_is_cut_out_of_its_model(
    model: Path, subnet: Subnet, tmp_path: Path, format: str
) -> None:
    (tmp_path / "subnet.json").write_text(subnet.to_json())
    path = export_command.export(
        tmp_path / "subnet.json", out=tmp_path / "out", format=format, nearest=True, model=str(model)
    )
    assert path.exists()
    assert json.loads((tmp_path / "out" / "export.json").read_text())["subnet"]["blocks"] == [0, 1, 2, 5]
    with pytest.raises(HwfitError, match="--model"):
        export_command.export(tmp_path / "subnet.json", format=format)


def test_the_default_is_a_graph_beside_the_weights_that_generates(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run / "subnets" / NAME
    path = export_command.export(folder, max_context=32)
    assert path == folder / "model.onnx"
    assert load_bundle(folder).subnet.blocks == (0, 1, 2, 5)
    made = export_command.generate(folder, "the cat sat", tokens=6)
    assert 1 <= len(made.ids) <= 6
    told = capsys.readouterr().out
    assert "the cat sat" in told
    assert "tokens/s" in told
    with pytest.raises(HwfitError, match="exceed this model's 32"):
        export_command.generate(folder, "the cat sat", tokens=64)
    with pytest.raises(HwfitError, match="no chat template"):
        export_command.generate(folder, "the cat sat", tokens=6, chat=True)
    with pytest.raises(HwfitError, match="--prompt is empty"):
        export_command.generate(folder, "", tokens=6)
    with pytest.raises(HwfitError, match="no tokenizer"):
        export_command.generate(run, "the cat sat", tokens=6)
    (run / "file").write_text("")
    with pytest.raises(HwfitError, match="cannot be written"):
        export_command.export(folder, out=run / "file" / "below", format="gguf")


def test_the_front_door(run: Path) -> None:
    folder = run / "subnets" / NAME
    done = CliRunner().invoke(cli.app, ["export", str(folder), "--format", "compressed-tensors"])
    assert done.exit_code == 0, done.output
    assert "4-bit weights have zero points" in done.output
    assert (folder / "compressed-tensors" / "config.json").is_file()
    assert not list((run / "subnets").rglob(".*"))
    assert CliRunner().invoke(cli.app, ["generate", str(folder), "--prompt", "x"]).exit_code != 0  # no graph yet
