"""`python -m benchmarks.joint_vs_sequential` from end to end on a small random model, with two workers."""

from __future__ import annotations

import json
import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from model_shapes import SMOLLM2
from small_model import write_small_model

from benchmarks.joint_vs_sequential.__main__ import main
from benchmarks.joint_vs_sequential.evidence import Judged, difference, ranking, speedup
from benchmarks.joint_vs_sequential.measure import distilled, quality_name
from benchmarks.joint_vs_sequential.plan import Folder, Job
from hwfit.files import write_text
from hwfit.models.llama import load_config, load_shape
from hwfit.profiler.protocol import Rules
from hwfit.profiler.run import profile
from hwfit.profiler.subnets import profile_models
from hwfit.space import Space
from hwfit.subnet import Subnet
from hwfit.workload import Workload


def judged(seconds: float, nats: float, right: float, seed: int = 0) -> Judged:
    rng = np.random.default_rng(seed)
    return Judged.of(seconds, nats + 0.01 * rng.normal(size=50), {"t": rng.random(200) < right}, 0.0, True, None)


def test_speedup_is_that_of_two_fronts_a_constant_factor_apart():
    ours = [{s: judged(t, 4 - 3 * t, 0.5, s) for s in range(3)} for t in (0.5, 0.7, 0.9)]
    theirs = [{s: judged(1.2 * t, 4 - 3 * t, 0.5, s) for s in range(3)} for t in (0.5, 0.7, 0.9)]
    found = speedup(ours, theirs)
    assert found[""] == pytest.approx(1.2, rel=1e-6)
    assert found[".low"] <= 1.2 <= found[".high"] + 1e-9
    assert speedup(ours, [{0: judged(1.0, 9.0, 0.5)}]) == {}


def test_difference_is_paired():
    """The same documents on both sides: what they share is no uncertainty."""
    ours = {s: judged(1.0, 3.0, 0.6, s) for s in range(3)}
    worse = {s: Judged.of(1.0, j.nats + 0.1, j.correct, 0.0, True, None) for s, j in ours.items()}
    found = difference(ours, worse)
    assert found["points"] == found["low"] == found["high"] == 0
    assert found["ppl_ratio"] == pytest.approx(np.exp(-0.1))
    assert found["ppl_ratio_high"] - found["ppl_ratio_low"] < 1e-9


def test_ranking_is_of_what_was_foreseen_with_what_came():
    nats, losses = [3.0, 3.4, 3.6, 4.1], [0.1, 0.3, 0.2, 0.9]
    foreseen = [Judged.of(1.0, [n], {"t": [True]}, x, True, None) for n, x in zip(nats, losses, strict=True)]
    assert ranking(foreseen) == pytest.approx(0.8)  # one neighbouring pair of four the wrong way: 1 - 6 * 2 / 60
    assert ranking([Judged.of(1.0, [n], {"t": [True]}, -n, True, None) for n in nats]) == -1


def test_what_is_timed_again_is_what_was_chosen(tmp_path: Path):
    """Not a larger rung that another budget had distilled."""
    folder, job = Folder(tmp_path), Job("joint", "decode", 70, 0)
    rungs = {share: Subnet.whole(SMOLLM2, name) for share, name in ((1.0, "w8a8"), (0.9, "w4a8g32"))}
    found = [
        {"share": share, "subnet": json.loads(s.to_json()), "predicted": {"decode": 1.0}, "loss": 0.0}
        for share, s in rungs.items()
    ]
    write_text(folder.found(job.name), json.dumps({"rungs": found}))
    for subnet in rungs.values():
        write_text(folder.quality(quality_name(subnet, 0)), "{}")
    assert getattr(distilled(folder, job), "share", None) == 1.0
    write_text(folder.measured(job.cell), json.dumps({job.name: {"share": 0.9}}))
    assert getattr(distilled(folder, job), "share", None) == 0.9
    folder.quality(quality_name(rungs[0.9], 0)).unlink()
    assert distilled(folder, job) is None


def _shares(path: Path) -> dict[str, float]:
    return {job: row["share"] for job, row in json.loads(path.read_text()).items() if "share" in row}


@pytest.mark.slow
def test_all_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    root = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]))
    model, tables, out = write_small_model(tmp_path / "model"), tmp_path / "tables", tmp_path / "run"
    space = Space.default(load_shape(model))
    rules = Rules(seconds=0.01, min_rounds=3, max_rounds=3)
    profile(space, Workload(), "cpu", tables, None, False, coarse=True, rules=rules)
    profile_models(space, load_config(model), Workload(), tables, "cpu", 3, 0.1, progress=False)

    def stage(name: str, *arguments: object) -> str:
        main([name, "--out", str(out), *map(str, arguments)])
        return capsys.readouterr().out

    few = (
        "--seeds",
        1,
        "--budgets",
        70,
        "--loose",
        150,
        "--seconds",
        0.05,
        "--seq",
        64,
        "--train",
        8,
        "--validation",
        4,
        "--heldout",
        2,
        "--documents",
        2,
    )
    stage("prepare", "--model", model, "--tables", tables, "--text", model / "text.txt", *few)
    pool = ("--model", model, "--train-on", "cpu", "--workers", 2)
    steps = ("--weight-steps", 1, "--steps", 1, "--sequences", 1, "--judged", 1, "--candidates", 1, "--trials", 0)
    assert "left" in stage("search", *pool, *steps, "--minutes", 0)
    assert "all done" in stage("search", *pool, *steps, "--shares", 1, 0.8)
    stage("measure", "--seconds", 0.05, "--rounds", 2)
    chosen = {path.name: _shares(path) for path in (out / "measured").glob("*.b*.json")}
    assert "all done" in stage("distil", *pool, "--steps", 2, "--sequences", 1)
    stage("measure", "--seconds", 0.05, "--again")
    assert {path.name: _shares(path) for path in (out / "measured").glob("*.b*.json")} == chosen
    printed = stage("report", "--results", tmp_path / "results.json", "--json")

    figures = json.loads(printed.splitlines()[-1])["figures"]
    for cell in ("decode.b70", "prefill.b70", "prefill_in_memory.b150"):
        assert figures[f"{cell}.joint.ppl"] > 1
        for other in ("sequential", "quantise_first"):
            minus = f"{cell}.joint_minus_{other}"
            assert figures[f"{minus}.low"] <= figures[f"{minus}.high"]
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert {row["method"] for row in rows} >= {"joint", "sequential", "quantise_first", "random"}
    for path in (out / "found").glob("*.json"):
        raw = json.loads(path.read_text())
        for rung, (metric, limit) in product(raw["rungs"], raw["limits"].items()):
            share = 1.0 if metric == "memory" else rung["share"]
            assert rung["predicted"][metric] <= share * limit * 1.0001
