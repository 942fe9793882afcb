"""The fingerprint of a GPU."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from fake_gpu import SMALL, FakePynvml, become_gpu

from hwfit.profiler import device as device_module
from hwfit.profiler.device import compute_capability
from hwfit.profiler.device_kinds import fingerprint


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):
    with become_gpu(monkeypatch) as module:
        yield module


def test_fingerprint(gpu: FakePynvml):
    found = fingerprint("cuda")
    assert re.fullmatch(r"cuda-nvidia-h200-[0-9a-f]{6}", found.key)
    assert (found.name, found.model, found.cores) == ("NVIDIA H200", "sm_90", 132)
    assert found.cache == found.l2 == SMALL.l2
    facts = found.to_dict()
    assert (facts["driver"], facts["max_sm_clock"], facts["power_limit"], facts["ecc"]) == ("580.82", 1980, 700.0, True)
    assert facts["torch"] == torch.__version__


def test_the_key_tells_gpus_apart_but_not_their_drivers(gpu: FakePynvml, monkeypatch: pytest.MonkeyPatch):
    key = fingerprint("cuda").key
    gpu.power_limit, gpu.ecc = 300_000, (0, 0)
    assert fingerprint("cuda").key == key
    for change in ({"name": "NVIDIA H100 PCIe"}, {"multiprocessors": 66}, {"l2": 1}, {"sm": 80}):
        monkeypatch.setattr(device_module, "current_gpu", lambda change=change: replace(SMALL, **change))
        assert fingerprint("cuda").key != key


def test_a_processors_cache_is_its_l3():
    found = fingerprint("cpu")
    assert found.cache == found.l3


def test_compute_capability_is_a_gpus(gpu: FakePynvml):
    assert compute_capability("cuda") == 90
    assert compute_capability("cpu") is None
