"""`--batch`, `--prompt` and `--context`: what `hwfit search` has its budgets on, and `hwfit measure` times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_model import write_small_model

from hwfit import cli, commands
from hwfit.errors import HwfitError
from hwfit.profiler import protocol
from hwfit.profiler.protocol import Rules
from hwfit.report.results import read_results
from hwfit.workload import Workload, workloads_of

MANY = {"batch": 4, "prompt": 64, "context": 80}


@pytest.mark.slow
def test_budgets_are_on_the_workload_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(protocol.RULES, "cpu", Rules(seconds=0.05, min_rounds=4, max_rounds=12))
    model, tables, run = write_small_model(tmp_path / "small"), tmp_path / "tables", tmp_path / "run"
    commands.profile(
        str(model), tables=tables, precision=["w8a8"], coarse=True, whole_models=0,
        batch=[4], prompt=[64], context=80,
    )  # fmt: skip
    given = {"tables": tables, "precision": ["w8a8"], "text": model / "text.txt", "train_on": "cpu"}
    given |= {"steps": 1, "distil_steps": 1}
    with pytest.raises(HwfitError, match=r"hwfit profile .*--batch 2 --prompt 64 --context 80"):
        commands.search(str(model), ["decode=1s"], run, **given, **{**MANY, "batch": 2})
    assert not (run / "checkpoints" / "device.txt").exists()

    whole = commands.predict(str(model), tables=tables, **MANY)["w8a8"]
    assert whole["prefill"].value > 0
    also = [f"decode={2e3 * whole['decode'].value}ms memory=50MB"]
    limits = [f"ttft={0.9e3 * whole['prefill'].value}ms"]
    folder = commands.search(str(model), limits, run, **given, **MANY, also=also)["subnet"]
    texts = [path.read_text() for path in (run / "found").glob("*.json")]
    assert sorted(json.loads(text)["name"].split("=")[0] for text in texts) == ["subnet", "subnet decode"]
    results = read_results(run)
    assert (results.workload.batch, results.workload.prompt, results.workload.context) == (4, 64, 80)
    with pytest.raises(HwfitError, match=r"hwfit profile .*--batch 4 --prompt 32 --context 80"):
        commands.search(str(model), ["decode=1s"], run, **given, **{**MANY, "prompt": 32})
    with pytest.raises(HwfitError, match=r"hwfit search MODEL --budget decode=\S+ --batch 4 --prompt 64 --context 80"):
        commands.pick(run, budget=["decode=0.000001ms"])

    many = commands.measure([str(folder)], tables=tables, seconds=0.3, **MANY)[str(folder)]
    one = commands.measure([str(folder)], tables=tables, seconds=0.3, prompt=8, context=8)[str(folder)]
    assert many["prefill"].p10 > 3 * one["prefill"].p10  # 256 tokens, not 8
    row = next(row for row in results.rows if row.name == "subnet")
    assert 1 / 3 < row.timing("prefill").measured / many["prefill"].p10 < 3


@given(st.integers(1, 64), st.integers(1, 4096), st.integers(1, 4096))
def test_the_options_of_a_workload_say_it(batch: int, prompt: int, context: int):
    workload = Workload(batch, prompt, context=context)
    words = workload.options
    said = dict(zip((w.removeprefix("--") for w in words[::2]), map(int, words[1::2]), strict=True))
    said = {"batch": 1, "prompt": 128, "context": 128} | said
    assert workloads_of([said["batch"]], [said["prompt"]], said["context"]) == [workload]


def test_what_is_below_one_is_told_before_anything_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bad = ["--batch", "0", "--prompt", "-3", "--context", "0"]
    for command in (["search", "nowhere", "--budget", "decode=1ms"], ["measure", str(tmp_path)]):
        with pytest.raises(SystemExit) as ended:
            cli.main(lambda: cli.app([*command, *bad]))  # noqa: B023
        assert ended.value.code == 2
        told = capsys.readouterr().err
        assert all(f"--{name} {value} must be at least 1" in told for name, value in
                   (("batch", 0), ("prompt", -3), ("context", 0)))  # fmt: skip


def test_every_problem_of_several_budgets_is_told_with_its_flag():
    with pytest.raises(HwfitError) as error:
        commands.search("nowhere", ["speed=1ms"], also=["ttft=80ms ttft=90ms", "memory=120"])
    told = "\n".join(error.value.problems)
    assert "--budget speed=1ms: metric 'speed' is unknown" in told
    assert "--also ttft=90ms: ttft is given twice" in told
    assert "--also memory=120:" in told
