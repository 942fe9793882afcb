"""`profile`, `predict` and `measure` end to end on a GPU whose kernels run on the CPU."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from small_model import write_small_model

from hwfit import commands, search_run
from hwfit.deploy.bundle import dense_weights, load_bundle, quantise_bundle, save_bundle
from hwfit.deploy.slice import subnet_config
from hwfit.errors import HwfitError
from hwfit.evaluate.deployed import answers_file, open_scorer
from hwfit.evaluate.scorer import TorchScorer, token_log_probs
from hwfit.lut_store.table import Table
from hwfit.lut_store.whole_runs import read_runs
from hwfit.models.llama import load_config, load_shape, load_weights, torch_model
from hwfit.profiler import protocol as protocol_module
from hwfit.profiler.device_kinds import fingerprint, get_backend
from hwfit.profiler.protocol import Rules
from hwfit.search.study import StudySettings
from hwfit.subnet import Subnet

sys.path.append(str(Path(__file__).parent / "profiler"))
from fake_gpu import FakePynvml, become_gpu


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(commands, "preflight", lambda *flags: None)
    with become_gpu(monkeypatch) as module:
        yield module


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("small"))


def test_profile_goes_the_same_way_as_on_a_processor(gpu: FakePynvml, model: Path, tmp_path: Path):
    """Own default precisions, layers and whole models in one table, which then predicts."""
    report = commands.profile(str(model), "cuda", tmp_path, coarse=True, whole_models=1)
    assert report.device == fingerprint("cuda").key
    assert report.left == report.unsupported == 0
    frame = Table(tmp_path).read(report.device)
    names = {"w16a16", "w8a8", "w8a16", "w4a16g32", "w4a8g32", "fp8"}  # 128 does not divide 192 inputs
    assert set(frame[frame["kind"] == "linear"]["precision"]) == names
    assert set(frame["backend"]) == {"torch-triton-cuda"}
    assert frame["note"].str.contains("sm 1980 MHz").all()
    assert len(read_runs(tmp_path, report.device)) == 2
    assert set(commands.predict(str(model), "cuda", tmp_path)) == names
    again = commands.profile(str(model), "cuda", tmp_path, coarse=True, whole_models=1)
    assert again.measured == report.unstable
    assert {run.fingerprint["name"] for run in Table(tmp_path).runs()} == {"NVIDIA H200"}


def test_energy_of_a_call_is_written_down(
    gpu: FakePynvml, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    gpu.millijoules = lambda: int(time.monotonic() * 1000) * 100  # 100 W
    rules = Rules(seconds=0.05, min_rounds=3, max_rounds=3, max_copies=4, energy=0.01)
    monkeypatch.setitem(protocol_module.RULES, "cuda", rules)
    options = {"precision": ["w16a16"], "coarse": True, "whole_models": 0}
    report = commands.profile(str(model), "cuda", tmp_path, **options)
    frame = Table(tmp_path).read(report.device)
    assert report.measured == len(frame) > 0
    assert (frame["energy"] > 0).all()


def test_precisions_the_gpu_lacks_are_all_refused_before_anything_is_timed(
    gpu: FakePynvml, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lacks = {"fp8": "this GPU has no fp8; H100 and H200 have", "w2a16g32": "no 2 bits; use w4a16g32"}
    monkeypatch.setattr(get_backend("cuda").kit, "why_not", lambda p, k: lacks.get(p.name), raising=False)
    with pytest.raises(HwfitError) as error:
        commands.profile(str(model), "cuda", tmp_path / "t", precision=["w16a16", "fp8", "w2a16g32"])
    assert error.value.problems == [f"--precision {name}: {reason}" for name, reason in lacks.items()]
    assert not (tmp_path / "t").exists()


def test_a_model_too_large_is_refused_before_anything_is_timed(
    gpu: FakePynvml, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("hwfit.kernels.cuda_env.free_memory", lambda: 1000)
    with pytest.raises(HwfitError, match="GPU memory"):
        commands.profile(str(model), "cuda", tmp_path / "t")
    assert not (tmp_path / "t").exists()


@pytest.mark.slow
def test_search_ends_in_a_folder_that_the_gpu_measures_and_answers_from(
    gpu: FakePynvml, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(search_run, "StudySettings", lambda: StudySettings(train=6, validation=2, seq=32))
    text = tmp_path / "own.txt"
    text.write_text("\n".join(f"the {i} small model reads line {i * 7} of its own text" for i in range(400)))
    commands.profile(str(model), "cuda", tmp_path / "t", coarse=True, whole_models=1)
    predicted = commands.predict(str(model), "cuda", tmp_path / "t")
    budget = f"decode={1e3 * predicted['w16a16']['decode'].value:.3f}ms"
    options = {"out": tmp_path / "run", "device": "cuda", "tables": tmp_path / "t", "text": text, "judge": False}
    (folder,) = commands.search(str(model), [budget, "memory=100MB"], steps=2, distil_steps=1, **options).values()
    assert not (folder / "model.onnx").exists()
    assert commands.measure([str(folder)], "cuda", tmp_path / "t", seconds=0.1)[str(folder)]["decode"].p10 > 0

    bundle = load_bundle(folder)
    twin = torch_model(subnet_config(bundle.config, bundle.subnet), dense_weights(bundle))
    ids = list(range(5, 25))
    got, _ = token_log_probs(open_scorer("cuda", answers_file("cuda", folder), 1), ids, 8)
    expected, _ = token_log_probs(TorchScorer(twin), ids, 8)
    assert abs(got - expected).max() < 0.2  # 16-bit activations against fp32
    with pytest.raises(HwfitError, match="hwfit search --device cuda"):
        answers_file("cuda", tmp_path)


def test_measure_runs_a_bundle_folder_but_no_graph(gpu: FakePynvml, model: Path, tmp_path: Path):
    shape = load_shape(model)
    bundle = quantise_bundle(load_weights(model), shape, load_config(model), Subnet.whole(shape, "w4a16g32"))
    folder = save_bundle(bundle, tmp_path / "bundle")
    times = commands.measure([str(folder)], "cuda", tmp_path / "t", seconds=0.1)
    assert times[str(folder)]["decode"].p10 > 0
    with pytest.raises(HwfitError, match="not an ONNX file"):
        commands.measure([str(tmp_path / "m.onnx")], "cuda", tmp_path / "t", seconds=0.1)
