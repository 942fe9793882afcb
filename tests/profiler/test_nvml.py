import os
import sys

import pytest
from fake_gpu import FakePynvml, process

from hwfit.errors import HwfitError
from hwfit.profiler.nvml import Facts, Nvml, Process, State


def test_state_and_facts_are_read():
    nvml = Nvml(module=FakePynvml(reasons=lambda: 0x1 | 0x2, millijoules=lambda: 12_345))
    assert nvml.state() == State(1980, 3201, 40, 412.345, ()), "idle and a set clock are no throttling"
    assert nvml.energy() == 12.345
    assert nvml.facts() == Facts(
        name="NVIDIA H200",
        driver="580.82",
        cuda="13.0",
        max_sm_clock=1980,
        max_memory_clock=3201,
        set_sm_clock=1980,
        power_limit=700.0,
        default_power_limit=700.0,
        slow_down_at=90,
        ecc=True,
        mig=False,
        persistence=True,
        memory_total=150_000_000_000,
        memory_free=140_000_000_000,
    )
    assert nvml.utilisation() == 0


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0x4, ("power cap",)),
        (0x8 | 0x40, ("hardware slowdown", "hardware temperature")),
        (0x20, ("temperature",)),
        (0x80, ("power brake",)),
        (0x1 | 0x2 | 0x10 | 0x100, ()),
    ],
)
def test_throttle_reasons_by_name(bits: int, names: tuple[str, ...]):
    assert Nvml(module=FakePynvml(reasons=lambda: bits)).state().throttle == names


@pytest.mark.parametrize("how", ["absent", "silent"])
def test_older_libraries_and_drivers_have_another_name_for_the_reasons(how: str):
    module = FakePynvml(reasons=lambda: 0x4, **{how: frozenset({"nvmlDeviceGetCurrentClocksEventReasons"})})
    assert Nvml(module=module).state().throttle == ("power cap",)


def test_what_a_device_does_not_tell_is_none():
    calls = [name for name in FakePynvml()._answers if "Handle" not in name and name != "nvmlInit"]
    nvml = Nvml(module=FakePynvml(silent=frozenset(calls)))
    assert nvml.state() == State(None, None, None, None, ())
    assert nvml.energy() is None
    facts = nvml.facts()
    assert facts.name == "unknown"
    assert [facts.ecc, facts.mig, facts.persistence, facts.memory_free, facts.driver] == [None] * 5
    assert nvml.others() == []
    assert nvml.utilisation() is None


def test_the_gpu_is_found_by_its_number_else_by_its_index():
    for uuid, handle in (("12-34", "handle GPU-12-34"), ("MIG-9", "handle MIG-9"), (None, "handle 3")):
        assert Nvml(3, uuid, FakePynvml())._handle == handle
    unknown = FakePynvml(silent=frozenset({"nvmlDeviceGetHandleByUUID"}))
    assert Nvml(3, "12-34", unknown)._handle == "handle 3"


def test_other_processes_are_those_that_hold_memory():
    mine = process(os.getpid())
    nvml = Nvml(module=FakePynvml(processes=[mine, process(7), process(8, 1_000_000), process(9, None)]))
    assert nvml.others() == [Process(7, 5_000_000_000), Process(9, None)]


def test_a_driver_that_does_not_answer_is_an_error_in_words():
    with pytest.raises(HwfitError, match=r"does not answer NVML \(Not Supported\); see whether nvidia-smi runs"):
        Nvml(module=FakePynvml(silent=frozenset({"nvmlInit"})))


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(HwfitError, match=r"nvidia-ml-py is not installed; pip install 'hwfit\[gpu\]'"):
        Nvml()
