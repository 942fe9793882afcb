"""A device of another kind is one entry of the registry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fake_backend import FakeBackend, tiny_space

from hwfit import commands
from hwfit.errors import HwfitError
from hwfit.profiler.device_kinds import DEVICES, DeviceKind, fingerprint, get_backend, get_deployer
from hwfit.profiler.protocol import Rules
from hwfit.profiler.run import profile


@pytest.fixture
def npu(monkeypatch: pytest.MonkeyPatch) -> str:
    """A device that runs single ops in next to no time."""
    name = replace(fingerprint("cpu"), key="npu-1")
    monkeypatch.setitem(DEVICES, "npu", DeviceKind(lambda: FakeBackend(lambda seconds: None), lambda: name))
    return "npu"


def test_an_entry_is_all_that_a_device_needs(npu: str, tmp_path: Path):
    rules = Rules(seconds=0.01, min_rounds=3, max_rounds=3, unstable=1e9, drift=1e9)
    report = profile(tiny_space(), device=npu, tables=tmp_path, progress=False, coarse=True, rules=rules)
    assert report.device == "npu-1"
    assert report.measured > 0
    assert get_backend(npu) is get_backend(npu)
    assert commands.doctor(npu) == []


def test_whole_models_need_a_deployer_and_that_is_said_first(npu: str, tmp_path: Path):
    with pytest.raises(HwfitError, match="npu runs single ops, not whole models"):
        get_deployer(npu)
    config = tmp_path / "absent.json"
    with pytest.raises(HwfitError, match=r"npu runs single ops.*--whole-models 0"):
        commands.profile(device=npu, tables=tmp_path / "t", config=config)


@pytest.mark.parametrize("ask", [fingerprint, get_backend, get_deployer, commands.doctor])
def test_an_unknown_device_is_refused_with_the_nearest(ask):
    with pytest.raises(HwfitError, match=r"--device 'cpuu' is unknown; allowed: cpu, cuda \(did you mean cpu\?\)"):
        ask("cpuu")
