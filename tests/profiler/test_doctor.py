"""What the doctor says of machines that tests describe, and that it only looks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_gpu import H200, FakePynvml
from typer.testing import CliRunner

from hwfit import cli, commands
from hwfit.errors import HwfitError
from hwfit.profiler import doctor_cpu, doctor_gpu
from hwfit.profiler.doctor import Finding, examine, useless
from hwfit.profiler.nvml import Nvml, Process


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`files({"cpu0/cpufreq/scaling_governor": "powersave"})` makes a machine of those files."""
    monkeypatch.setattr(doctor_cpu, "SYSFS", tmp_path)
    monkeypatch.setattr(doctor_cpu, "CGROUP", tmp_path)

    def write(content: dict[str, str]) -> None:
        for name, text in content.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text + "\n")

    return write


def test_this_machine_is_examined_within_seconds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor_cpu, "LOOK", 0.1)
    found = examine("cpu")
    assert len({f.what for f in found}) == len(found) == 9
    for f in found:
        assert f.found
        assert f.effect
        assert f.verdict == "good" or f.remedy or f.what in ("versions",)


@pytest.mark.parametrize(
    ("name", "verdict"), [("performance", "good"), ("powersave", "warn"), ("schedutil", "warn"), (None, "good")]
)
def test_governor(files, name: str | None, verdict: str):
    files({"cpu0/cpufreq/scaling_governor": name} if name else {})
    assert doctor_cpu.governor().verdict == verdict


@pytest.mark.parametrize(
    ("content", "found", "verdict"),
    [
        ({"cpufreq/boost": "1"}, "on", "warn"),
        ({"cpufreq/boost": "0"}, "off", "good"),
        ({"intel_pstate/no_turbo": "1"}, "off", "good"),
        ({"intel_pstate/no_turbo": "0"}, "on", "warn"),
        ({}, "not visible here", "good"),
    ],
)
def test_turbo(files, content: dict[str, str], found: str, verdict: str):
    files(content)
    assert (doctor_cpu.turbo().found, doctor_cpu.turbo().verdict) == (found, verdict)


@pytest.mark.parametrize(("busy", "verdict"), [(3.0, "good"), (50.0, "warn"), (99.0, "warn")])
def test_load_of_others(busy: float, verdict: str):
    """Never bad: what is timed is the thread's own processor time."""
    assert doctor_cpu.others(busy).verdict == verdict


@pytest.mark.parametrize(
    ("hypervisor", "steal", "verdict"),
    [(False, 0.0, "good"), (True, 0.0, "good"), (True, 5.0, "warn"), (True, 40.0, "bad")],
)
def test_stolen_time(hypervisor: bool, steal: float, verdict: str):
    assert doctor_cpu.virtual(hypervisor, steal).verdict == verdict


@pytest.mark.parametrize(
    ("text", "found", "verdict"),
    [
        ("max 100000", "none", "good"),
        ("150000 100000", "1.5 processors", "warn"),
        ("20000 100000", "0.2 processors", "bad"),
    ],
)
def test_quota_of_a_container(files, text: str, found: str, verdict: str):
    files({"cpu.max": text})
    assert (doctor_cpu.quota().found, doctor_cpu.quota().verdict) == (found, verdict)


@pytest.mark.parametrize(("free", "verdict"), [(8e9, "good"), (1e9, "warn"), (1e8, "bad")])
def test_free_memory(free: float, verdict: str):
    assert doctor_cpu.memory(int(free)).verdict == verdict


@pytest.mark.parametrize(("active", "verdict"), [("1", "warn"), ("0", "good"), (None, "good")])
def test_smt(files, active: str | None, verdict: str):
    files({"smt/active": active} if active else {})
    assert doctor_cpu.smt().verdict == verdict


@pytest.mark.parametrize(
    ("current", "high", "critical", "verdict"),
    [(40, 90, 100, "good"), (80, 90, 100, "warn"), (99, None, 100, "bad"), (50, None, None, "good")],
)
def test_thermal_headroom(monkeypatch: pytest.MonkeyPatch, current, high, critical, verdict: str):
    sensor = SimpleNamespace(current=current, high=high, critical=critical)
    monkeypatch.setattr(doctor_cpu.psutil, "sensors_temperatures", lambda: {"chip": [sensor]}, raising=False)
    assert doctor_cpu.heat().verdict == verdict


# --- GPU ----------------------------------------------------------------------------------------------------------


def gpu(others: tuple[Process, ...] = (), **settings) -> dict[str, Finding]:
    nvml = Nvml(module=FakePynvml(**settings))
    found = doctor_gpu.look(H200, nvml.facts(), nvml.state(), list(others), nvml.utilisation())
    return {f.what: f for f in found}


@pytest.fixture(autouse=True)
def versions(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor_gpu, "package_version", lambda name: "3.6.0")
    monkeypatch.setattr(doctor_gpu.torch.version, "cuda", "13.0")


def test_a_quiet_whole_gpu_is_good():
    found = gpu()
    assert {f.verdict for f in found.values()} == {"good"}, found
    assert "580.82" in found["versions"].found
    assert "sm_90" in found["versions"].found
    assert not useless(list(found.values()))


@pytest.mark.parametrize(
    ("settings", "what", "verdict"),
    [
        ({"mig": (1, 1)}, "MIG", "bad"),
        ({"ecc": (0, 0)}, "ECC", "warn"),
        ({"persistence": 0}, "persistence mode", "warn"),
        ({"temperature": 84}, "temperature", "warn"),
        ({"temperature": 91}, "temperature", "bad"),
        ({"reasons": lambda: 0x20}, "clocks", "warn"),
        ({"set_clock": 1200}, "clocks", "warn"),
        ({"power_limit": 350_000}, "power limit", "warn"),
        ({"free": 5_000_000_000}, "free memory", "warn"),
        ({"free": 1_000_000_000}, "free memory", "bad"),
        ({"utilisation": 60}, "other processes", "warn"),
        ({"others": (Process(77, 3_000_000_000),)}, "other processes", "bad"),
    ],
)
def test_each_trouble_is_found_and_nothing_else(settings: dict, what: str, verdict: str):
    found = gpu(**settings)
    assert found[what].verdict == verdict
    assert found[what].remedy
    assert {f.verdict for name, f in found.items() if name != what} == {"good"}
    assert useless(list(found.values())) == (verdict == "bad")


def test_a_gpu_that_tells_nothing_is_no_trouble():
    calls = frozenset(name for name in FakePynvml()._answers if "Handle" not in name and name != "nvmlInit")
    found = gpu(silent=calls)
    assert {f.verdict for f in found.values()} == {"good"}


def test_versions_that_do_not_fit(monkeypatch: pytest.MonkeyPatch):
    nvml = Nvml(module=FakePynvml())
    old = replace(nvml.facts(), cuda="12.4")
    assert doctor_gpu.versions(H200, old).verdict == "bad"
    assert "update the driver" in doctor_gpu.versions(H200, old).remedy
    monkeypatch.setattr(doctor_gpu, "package_version", lambda name: "3.2.0")
    assert doctor_gpu.versions(H200, nvml.facts()).remedy == "install triton 3.6 to 3.7"


def test_the_doctor_only_asks():
    """No NVML call that sets anything."""
    module = FakePynvml()
    nvml = Nvml(module=module)
    doctor_gpu.look(H200, nvml.facts(), nvml.state(), nvml.others(), nvml.utilisation())
    assert module.asked
    assert not [call for call in module.asked if "Set" in call or "Reset" in call]


def test_without_a_gpu_the_reasons_are_findings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor_gpu, "cuda_problems", lambda: ["no torch for CUDA", "no triton"])
    found = examine("cuda")
    assert [f.found for f in found] == ["no torch for CUDA", "no triton"]
    assert useless(found)


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_prints_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(doctor_cpu, "LOOK", 0.05)
    findings = commands.doctor(json=True)
    rows = json.loads(capsys.readouterr().out)
    assert [row["what"] for row in rows] == [f.what for f in findings]
    assert set(rows[0]) == {"what", "found", "verdict", "effect", "remedy"}


def test_the_command_prints_a_table_and_refuses_unknown_devices(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(doctor_cpu, "LOOK", 0.05)
    found = Finding("governor", "[bold]", "warn", "slow", "pip install 'hwfit[gpu]'")
    monkeypatch.setattr(commands, "examine", lambda device: [found])
    commands.doctor()
    printed = capsys.readouterr().out
    assert "governor" in printed
    assert "[bold]" in printed, "brackets are text here, not colours"
    assert "hwfit[gpu]" in printed
    monkeypatch.undo()
    with pytest.raises(HwfitError, match=r"--device 'gpu' is unknown; allowed: cpu, cuda"):
        commands.doctor("gpu")


@pytest.mark.parametrize(("verdict", "code"), [("warn", 0), ("bad", 1)])
def test_useless_figures_are_exit_code_one(monkeypatch: pytest.MonkeyPatch, verdict, code: int):
    monkeypatch.setattr(commands, "doctor", lambda device, json: [Finding("load", "all", verdict, "noise")])
    assert CliRunner().invoke(cli.app, ["doctor"]).exit_code == code
