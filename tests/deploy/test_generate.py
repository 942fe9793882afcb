"""Generating: the likeliest tokens are those of all_logits, and the exported script makes the same ones."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from export_llama import merging_tokenizer, searched, write_searched

from hwfit.deploy.exporters import export_bundle
from hwfit.deploy.generate import generate
from hwfit.deploy.onnx_runner import pick
from hwfit.deploy.runtime import OnnxModel
from hwfit.errors import HwfitError

PROMPT = [5, 9, 200, 31]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generate")
    bundle = searched(("w32", "w8a8g32"))
    return export_bundle(bundle, write_searched(bundle, folder / "s"), folder / "out", "onnx", max_context=64).path


def greedy(path: Path, tokens: int) -> list[int]:
    """Without a cache: the whole sequence again for every token."""
    ids = list(PROMPT)
    model = OnnxModel(path)
    for _ in range(tokens):
        ids.append(int(model.all_logits(np.array([ids]))[0, -1].argmax()))
    return ids[len(PROMPT) :]


def test_the_likeliest_tokens(exported: Path) -> None:
    told: list[int] = []
    made = generate(OnnxModel(exported), PROMPT, 12, tell=told.append)
    assert list(made.ids) == told == greedy(exported, 12)
    assert made.prompt_tokens == 4
    assert made.tokens_per_second == pytest.approx(11 / made.decode_seconds)
    assert not made.ended


def test_it_stops_before_an_end_token(exported: Path) -> None:
    ids = greedy(exported, 12)
    stop = ids[5]
    made = generate(OnnxModel(exported), PROMPT, 12, stop={stop})
    assert list(made.ids) == ids[: ids.index(stop)]
    assert made.ended


def test_a_temperature_draws_and_a_seed_repeats(exported: Path) -> None:
    model = OnnxModel(exported)
    first, again, other = (generate(model, PROMPT, 12, 1.5, seed).ids for seed in (1, 1, 2))
    assert first == again != other
    logits = np.log(np.array([0.7, 0.2, 0.1]))
    rng = np.random.default_rng(0)
    counts = np.bincount([pick(logits, 1.0, rng) for _ in range(3000)], minlength=3) / 3000
    assert np.allclose(counts, [0.7, 0.2, 0.1], atol=0.03)


def test_bad_figures_are_refused_all_at_once(exported: Path) -> None:
    model = OnnxModel(exported)
    with pytest.raises(HwfitError) as error:
        generate(model, [], 0, -1)
    assert len(error.value.problems) == 3
    with pytest.raises(HwfitError, match=r"--tokens 61 after a prompt of 4 exceed this model's 64; at most 60"):
        generate(model, PROMPT, 61)
    assert len(generate(model, PROMPT, 60).ids) <= 60


def test_the_exported_script_needs_nothing_of_hwfit(exported: Path, tmp_path: Path) -> None:
    text = merging_tokenizer().decode(PROMPT)
    probe = tmp_path / "hwfit.py"
    probe.write_text("raise ImportError('the runner imports hwfit')")
    done = subprocess.run(
        [sys.executable, "generate.py", text, "--tokens", "10", "--ids"],
        cwd=exported.parent,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    ids = merging_tokenizer()(text)["input_ids"]
    ends = {2}
    made = generate(OnnxModel(exported), ids, 10, stop=ends)
    assert json.loads(done.stdout.splitlines()[0]) == list(made.ids)
    assert "tokens/s" in done.stdout
