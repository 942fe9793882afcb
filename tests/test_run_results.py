"""The end of a search: models exported, timed, judged and written up once each; and what is said of another device."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_model import write_small_model

from hwfit import bench as bench_module
from hwfit import commands
from hwfit.bench import Bench, timed
from hwfit.deploy.bundle import quantise_bundle, save_bundle
from hwfit.errors import HwfitError
from hwfit.evaluate.judge import Exam, Quality
from hwfit.evaluate.perplexity import Perplexity
from hwfit.evaluate.score import Score
from hwfit.kernels.op import Op
from hwfit.latency_models.estimate import DataMiss, Estimate
from hwfit.latency_models.whole import WholeModel
from hwfit.models.llama import load_config, load_shape, load_weights
from hwfit.precision import Precision
from hwfit.profiler.anchor import Correction, Pace
from hwfit.profiler.device_kinds import fingerprint
from hwfit.profiler.whole import Timing
from hwfit.report.results import Results, read_results
from hwfit.run_predictions import tell_predictions
from hwfit.run_results import conclude
from hwfit.search.budget import Budget
from hwfit.search.optimise import StepLog
from hwfit.search.run import Choice
from hwfit.stages import Stages
from hwfit.subnet import ModelShape, Subnet
from hwfit.target_device import TargetDevice, target_device
from hwfit.workload import PHASES, Workload

SHAPE = ModelShape(192, 6, 3, 32, 256, 6, 512)
BUDGET = Budget((("decode", 2e-3), ("memory", 3e6)))
LOG = tuple(StepLog(i, 1.0 - i / 10, {"decode": 3e-3, "memory": 2e6}, 0.5, {"decode": 0.1 * i}) for i in range(3))


class Bits:
    """Every op costs its weight bits; fp32 was never profiled."""

    device, precisions = "cpu-none", set()

    def price(self, op: Op) -> float:
        if op.kind == "linear" and op.precision == "w32":
            raise DataMiss({op: "not measured"}, self.device)
        return 1e-12 * (Precision.parse(op.precision).weight_bits if op.precision else 1) * max(1, op.n) * max(1, op.k)

    def predict(self, op: Op) -> Estimate:
        return Estimate(self.price(op), self.price(op), self.price(op), "measured")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Bench, dict[str, Choice]]:
    """A run folder with two distilled bundles, and what they were chosen for."""
    root = tmp_path_factory.mktemp("made")
    model, out = write_small_model(root / "model"), root / "run"
    shape, config = load_shape(model), load_config(model)
    choices = {
        "subnet": Choice("subnet", "evolutionary", BUDGET, Subnet.whole(shape, "w4a8g32"), LOG),
        "uniform w8a8": Choice("uniform w8a8", "uniform", None, Subnet.whole(shape, "w8a8")),
    }
    for name, choice in choices.items():
        bundle = quantise_bundle(load_weights(model), shape, config, choice.subnet)
        save_bundle(bundle, out / "subnets" / name)
    identity = fingerprint("cpu")
    bench = Bench(str(model), model, out, "cpu", identity, WholeModel(Bits()), Workload(), root, progress=False)
    return bench, choices


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """What was timed and judged, without timing and judging."""
    seen: dict[str, list[list[str]]] = {"timed": [], "judged": []}
    pace = Correction(Pace(1.0, 1.0, 1.0), 1.0)

    def time_models(models: Mapping[str, object], *rest: Any) -> dict:
        seen["timed"].append(list(models))
        seconds = {name: (i + 1) * 1e-3 for i, name in enumerate(models)}
        return {n: dict.fromkeys(PHASES, Timing(s, s, s, 0.9 * s, 1.1 * s, 5, s, pace)) for n, s in seconds.items()}

    def judge_all(folders: Mapping[str, Path], *rest: Any, **named: Any) -> dict[str, Quality]:
        seen["judged"].append(list(folders))
        score = Score("acc", 0.5, 0.1, 2, (True, False))
        return {name: Quality(Perplexity(10.0, 9.0, 11.0, 8), {"piqa": score}) for name in folders}

    monkeypatch.setattr(bench_module, "time_models", time_models)
    monkeypatch.setattr(bench_module, "judge_all", judge_all)
    monkeypatch.setattr(bench_module, "questions", lambda *rest: None)
    monkeypatch.setattr(bench_module.Anchor, "of_table", lambda *rest: None)
    return seen


def concluded(bench: Bench, choices: dict[str, Choice]) -> Results:
    bundles = {name: bench.out / "subnets" / name for name in choices}
    return conclude(bench, choices, bundles, "subnet", Stages.of(bench.out), {"training text": "made up"})


def test_a_run_ends_in_results_that_report_and_pick_read(made, calls, capsys: pytest.CaptureFixture[str]):
    bench, choices = made
    concluded(bench, choices)
    rows = {row.name: row for row in read_results(bench.out).rows}
    assert {name: row.kind for name, row in rows.items()} == {
        "original fp32": "original",
        "subnet": "joint",  # whatever the strategy
        "uniform w8a8": "uniform",
    }
    assert rows["original fp32"].decode.predicted is None
    priced = bench.latency.predict(choices["subnet"].subnet, bench.workload.decode).value
    assert rows["subnet"].decode.predicted == pytest.approx(priced)
    assert rows["subnet"].budget == BUDGET.as_dict()
    assert [row.name for row in rows.values() if row.picked] == ["subnet"]
    search = read_results(bench.out).search
    assert [run.steps[2].expected for run in search] == [3e-3, 2e6]  # a line for each limit
    assert [run.steps[2].multiplier for run in search] == [0.2, 0.0]
    for file in ("report.html", "pareto.png", "table.md"):
        assert (bench.out / file).stat().st_size > 100
    commands.report(bench.out)
    picked = commands.pick(bench.out, latency="2.5ms")
    assert picked.best.row.name in ("original fp32", "subnet")
    assert "rejected" in capsys.readouterr().out


def test_nothing_is_exported_timed_or_told_twice(made, calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    bench, choices = replace(made[0], seconds=7.0), made[1]
    judge_all = bench_module.judge_all

    def killed(folders: Mapping[str, Path], *rest: Any, **named: Any) -> dict[str, Quality]:
        if "uniform w8a8" in folders:
            raise KeyboardInterrupt
        return judge_all(folders, *rest, **named)

    monkeypatch.setattr(bench_module, "judge_all", killed)
    with pytest.raises(KeyboardInterrupt):
        concluded(bench, choices)
    graphs = {path: path.stat().st_mtime_ns for path in bench.out.glob("subnets/*/model.onnx")}
    assert len(graphs) == 3
    monkeypatch.setattr(bench_module, "judge_all", judge_all)
    results = concluded(bench, choices)
    assert len(calls["timed"]) == 1
    assert {path: path.stat().st_mtime_ns for path in graphs} == graphs
    assert {row.decode.measured for row in results.rows} == {1e-3, 2e-3, 3e-3}
    assert {stage.name for stage in results.stages} == {"export", "measure", "evaluate"}


def test_one_new_model_times_all_and_fewer_time_none(made, calls):
    bench, choices = replace(made[0], seconds=8.0), made[1]
    folders = {name: bench.out / "subnets" / name for name in choices}
    one = dict(list(folders.items())[:1])
    timed(bench, one)
    both = timed(bench, folders)
    assert timed(bench, one)["subnet"] == both["subnet"]
    assert calls["timed"] == [["subnet"], ["subnet", "uniform w8a8"]]
    timed(replace(bench, workload=Workload(batch=2)), one)
    assert len(calls["timed"]) == 3


@pytest.mark.parametrize("damage", ["[", "[]", '{"models": "x"}', "NaN"])
def test_damaged_times_and_stages_are_told(made, calls, tmp_path: Path, damage: str):
    bench = replace(made[0], out=tmp_path)
    path = tmp_path / "checkpoints" / "timed.json"
    path.parent.mkdir()
    path.write_text(damage)
    with pytest.raises(HwfitError, match=r"timed\.json: damaged"):
        timed(bench, {"subnet": made[0].out / "subnets" / "subnet"})
    (tmp_path / "stages.json").write_text(damage)
    with pytest.raises(HwfitError, match=r"stages\.json: damaged"):
        Stages.of(tmp_path)


def test_a_device_of_a_table_is_known_and_a_run_is_one_devices_and_workloads(tmp_path: Path):
    gpu = target_device("cuda-nvidia-h200", Path("shipped"))
    assert (gpu.kind, gpu.here, gpu.answers, gpu.sm) == ("cuda", False, False, 90)
    here = target_device("cpu", None)
    assert here.here
    assert here.key == fingerprint("cpu").key
    with pytest.raises(HwfitError, match="is not in table"):
        target_device("a-toaster", Path("shipped"))
    gpu.claim(tmp_path, Workload())
    gpu.claim(tmp_path, Workload())
    with pytest.raises(HwfitError, match=r"holds a search for device cuda-nvidia-h200.*give another folder"):
        TargetDevice("cpu", "cpu-mine").claim(tmp_path, Workload())
    with pytest.raises(HwfitError, match=r"batch 1, prompt 128, context 128, not .*batch 8, prompt 128, context 128"):
        gpu.claim(tmp_path, Workload(batch=8))
    (tmp_path / "checkpoints" / "device.txt").write_text(f"{gpu.key}\n")  # as runs said it that knew one workload
    gpu.claim(tmp_path, Workload())
    with pytest.raises(HwfitError, match="give another folder"):
        gpu.claim(tmp_path, Workload(batch=8))


def test_of_a_device_elsewhere_predictions_are_told_as_such(made, calls, tmp_path: Path, capsys):
    bench = replace(made[0], identity=None, out=tmp_path, exam=Exam())
    folders = {name: made[0].out / "subnets" / name for name in made[1]}
    path = tell_predictions(bench, folders, judge=True)
    told = json.loads(path.read_text())
    assert told["device"] == "cpu-none"
    assert told["models"]["original fp32"]["decode"] is None
    assert told["models"]["subnet"]["decode"]["value"] > 0
    assert told["models"]["subnet"]["perplexity"]["value"] == 10.0
    said = " ".join(capsys.readouterr().out.split())
    assert "predicted for cpu-none, not measured" in said
    assert "is not in this machine" in said
    assert not (tmp_path / "results.json").exists()
    assert not calls["timed"]
