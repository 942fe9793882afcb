"""`hwfit pick`: the best of what keeps all limits as measured, against plain comparisons of the rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_fixture import synthetic_results
from typer.testing import CliRunner

from hwfit import cli
from hwfit.errors import HwfitError
from hwfit.pick_command import pick
from hwfit.report.pick import costs_of, pick_row
from hwfit.report.results import Results, read_results
from hwfit.search.budget import Budget


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    folder = tmp_path_factory.mktemp("run")
    (folder / "results.json").write_text(json.dumps(synthetic_results(24)))
    return read_results(folder)


def said(capsys, run: Path, **limits) -> str:
    pick(run, **limits)
    return capsys.readouterr().out


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.floats(3.5e-3, 4e-2), st.floats(6e7, 8e8), st.sampled_from(["perplexity", "accuracy"]))
def test_every_pick_keeps_all_limits_and_nothing_better_does(results: Results, decode: float, size: float, by: str):
    fits = [r for r in results.rows if r.decode.measured <= decode and r.size_bytes <= size]
    budget = Budget((("decode", decode), ("disk", size)))
    if not fits:
        with pytest.raises(HwfitError, match="no model of this run keeps"):
            pick_row(results, budget, by)
        return
    got = pick_row(results, budget, by)
    assert got.best.row in fits
    if by == "perplexity":
        assert got.best.row.perplexity == min(r.perplexity for r in fits)
    else:
        assert got.best.row.accuracy_mean == max(r.accuracy_mean for r in fits if r.accuracy_mean is not None)
    assert {one.row.name for one in got.rejected} == {r.name for r in results.rows} - {r.name for r in fits}
    assert all(one.broken for one in got.rejected)


def test_memory_is_what_is_stored_and_the_cache(results: Results):
    row = results.rows[4]
    s, costs = row.subnet, costs_of(row, results)
    assert costs["memory"].value == row.size_bytes + 2 * 4 * s.kv_heads * s.head_size * 128 * len(s.blocks)
    assert costs["disk"].value == row.size_bytes
    assert 1 / costs["1/params"].value == pytest.approx(s.params)


def test_says_why(run_dir: Path, capsys):
    text = said(capsys, run_dir, latency="6.5ms", memory="120MB", params=">=60M")
    first, *rest = text.splitlines()
    assert first.startswith("joint 6.5 ms: 24 blocks")
    assert "decode 6.46ms (6.283ms–6.597ms) <= 6.5ms, 99% of it; its interval reaches beyond" in text
    assert "perplexity 26.4 (24.9–28.2): best of the 4 models that keep all limits" in text
    assert "not told apart from it: joint 6 ms (intervals overlap)" in text
    assert "  architecture, then w8: memory 125.7MB > 120MB" in rest
    assert any(line.startswith("  uniform w8: decode 8.12ms") and "memory 171.3MB > 120MB" in line for line in rest)


def test_names_for_the_same_limit_pick_the_same(run_dir: Path):
    ways = [{"latency": "5ms"}, {"decode": "5ms"}, {"tokens_per_s": "200"}, {"budget": ["decode<=5ms"]}]
    assert {pick(run_dir, **way).best.row.name for way in ways} == {"joint 4 ms"}
    assert pick(run_dir, ttft="70ms").best.row.name == pick(run_dir, prefill="70ms").best.row.name


def test_the_folder_is_named_where_there_is_one(run_dir: Path, capsys):
    folder = run_dir / "subnets" / "joint 4 ms"
    folder.mkdir(parents=True)
    assert str(folder) in said(capsys, run_dir, latency="5ms").splitlines()[3].strip()
    assert json.loads(said(capsys, run_dir, latency="5ms", json=True))["folder"] == str(folder)


def test_json_has_every_model_with_what_it_breaks(run_dir: Path, capsys):
    got = json.loads(said(capsys, run_dir, latency="6.5ms", memory="120MB", by="accuracy", json=True))
    assert got["picked"] == "joint 6.5 ms"
    models = {m["name"]: m for m in got["models"]}
    assert len(models) == 9
    assert models["uniform w8"]["broken"] == ["decode", "memory"]
    assert models["joint 6.5 ms"]["fits"]
    assert models["joint 6.5 ms"]["accuracy"]["value"] == pytest.approx(0.522)
    assert models["joint 6.5 ms"]["accuracy"]["low"] < models["joint 6.5 ms"]["accuracy"]["high"]
    decode = {"value": 0.0287, "low": 0.0282, "high": 0.0293, "limit": 0.0065}
    assert models["original"]["costs"]["decode"] == pytest.approx(decode, abs=1e-4)


def test_nothing_fits_is_an_error_with_the_closest(run_dir: Path):
    with pytest.raises(HwfitError) as error:
        pick(run_dir, latency="3ms", params="100M")
    (text,) = error.value.problems
    assert "closest: 'joint 4 ms', which needs decode=3.93ms params=" in text
    assert "(x1.31)" in text
    assert "hwfit search MODEL --budget decode=3ms --budget params=100M" in text
    with pytest.raises(HwfitError, match=r"--budget 'params>=900M'"):
        pick(run_dir, params=">=900M")


def test_what_the_run_has_not_measured_is_refused(run_dir: Path, raw: dict):
    with pytest.raises(HwfitError, match=r"results\.json of this run has no energy; allowed: decode, prefill"):
        pick(run_dir, energy="1J")
    with pytest.raises(HwfitError, match="--by 'speed' is unknown"):
        pick(run_dir, latency="9ms", by="speed")
    raw["rows"][0] |= {"accuracy_mean": None, "accuracy_stderr": None}
    (run_dir / "results.json").write_text(json.dumps(raw))
    with pytest.raises(HwfitError, match="'original' was never scored; allowed: perplexity"):
        pick(run_dir, latency="9ms", by="accuracy")


def test_exit_codes(run_dir: Path):
    runner = CliRunner()
    done = runner.invoke(cli.app, ["pick", str(run_dir), "--tokens-per-s", "200", "--disk", "120MB"])
    assert done.exit_code == 0
    assert done.output.startswith("joint 4 ms")
    bad = runner.invoke(cli.app, ["pick", str(run_dir), "--latency", "1ms"])
    assert isinstance(bad.exception, HwfitError)  # `main` prints it and exits with 2
