"""What is refused before anything is timed, and which flag or change allows it."""

from __future__ import annotations

import os

import pytest
import torch
from fake_gpu import FakePynvml, process
from model_shapes import LLAMA_8B

from hwfit.errors import HwfitError
from hwfit.precision import Precision
from hwfit.profiler import preflight as preflight_module
from hwfit.profiler.deployers import split_by_bytes
from hwfit.profiler.nvml import Nvml, Process
from hwfit.profiler.preflight import foreign, gpu_problems, memory_problems, preflight, whole_bytes
from hwfit.subnet import Subnet
from hwfit.workload import Workload

PRECISIONS = [Precision.parse(p) for p in ("w16a16", "w8a16", "w4a16g128")]


def problems(others: tuple[Process, ...] = (), busy: bool = False, mig: bool = False, **settings) -> list[str]:
    return gpu_problems(Nvml(module=FakePynvml(**settings)), others, busy, mig, sleep=lambda seconds: None)


def test_a_quiet_gpu_passes():
    assert problems() == []


def test_other_processes_need_a_flag():
    (problem,) = problems((Process(77, 3_000_000_000), Process(78, None)))
    assert "77 (3.0 GB), 78" in problem
    assert "--allow-busy" in problem
    assert problems((Process(77, None),), busy=True) == []


def test_kernels_of_nobody_in_sight_need_it_too():
    (problem,) = problems(utilisation=63)
    assert "63 % of the time" in problem
    assert "--allow-busy" in problem
    assert problems(utilisation=63, busy=True) == []
    assert problems(utilisation=5) == []


def test_mig_needs_a_flag_and_both_are_told_at_once():
    found = gpu_problems(Nvml(module=FakePynvml(mig=(1, 1), utilisation=90)), [], sleep=lambda seconds: None)
    assert len(found) == 2
    assert "--allow-mig" in found[0]
    assert gpu_problems(Nvml(module=FakePynvml(mig=(1, 1))), [], False, True, lambda seconds: None) == []


def test_this_process_is_not_foreign(monkeypatch: pytest.MonkeyPatch):
    found = [Process(os.getpid(), 1), Process(2**22 + 7, 2), Process(2**22 + 8, 3)]
    assert foreign(found) == found[1:]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert foreign(found) == found[1:]
    assert foreign(found[1:]) == found[2:], "in a container the driver may know this process by another number"


def test_processors_are_never_refused_and_a_missing_gpu_is_told(monkeypatch: pytest.MonkeyPatch):
    preflight("cpu")
    monkeypatch.setattr("hwfit.kernels.cuda_env.cuda_problems", lambda: ["--device cuda: this torch has no CUDA"])
    with pytest.raises(HwfitError, match="has no CUDA"):
        preflight("cuda")


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, (0, None)), ("3,1", (3, None)), ("GPU-12", (0, "GPU-12")), ("MIG-1", (0, None))],
)
def test_the_first_visible_gpu_is_the_one_looked_at(monkeypatch: pytest.MonkeyPatch, visible, expected):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert preflight_module._first_visible() == expected


def test_a_model_that_does_not_fit_is_told_what_would():
    whole, workload = Subnet.whole(LLAMA_8B, "w16a16"), Workload()
    assert memory_problems(whole, workload, 24_000_000_000, PRECISIONS) == []
    (problem,) = memory_problems(whole, workload, 12_000_000_000, PRECISIONS)
    assert "needs 18.1 GB of GPU memory, 12.0 GB are free" in problem
    assert "--precision w8a16 (" in problem
    assert "--precision w4a16g128 (" in problem
    assert "w16a16 (" not in problem
    (problem,) = memory_problems(whole, workload, 1_000_000_000, PRECISIONS)
    assert "fewer blocks or a smaller model" in problem


def test_models_are_timed_in_groups_that_fit():
    workload = Workload()
    subnets = {str(i): Subnet.whole(LLAMA_8B, p) for i, p in enumerate(("w16a16", "w8a16", "w4a16g128", "w16a16"))}
    sizes = {name: whole_bytes(subnet, workload) for name, subnet in subnets.items()}
    room = sizes["0"] + sizes["1"]
    groups = split_by_bytes(subnets, workload, room)
    assert [list(group) for group in groups] == [["0", "1"], ["2", "3"]]
    assert [list(group) for group in split_by_bytes(subnets, workload, 1)] == [["0"], ["1"], ["2"], ["3"]]
    assert split_by_bytes({}, workload, room) == []


def test_nvml_lists_no_small_contexts():
    assert Nvml(module=FakePynvml(processes=[process(9, 10_000_000)])).others() == []
