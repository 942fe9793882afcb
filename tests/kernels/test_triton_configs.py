"""Which configurations are tried, how a choice is remembered, and what is refused in which words. No GPU, no triton."""

import json
import re
from pathlib import Path

import pytest
import torch

from hwfit.errors import HwfitError
from hwfit.kernels import triton_autotune
from hwfit.kernels.triton_autotune import bucket, choose, chosen, key
from hwfit.kernels.triton_configs import SHARED_MEMORY, Config, candidates, default_config, stage_bytes
from hwfit.kernels.triton_linear import low_activations_why_not, why_not
from hwfit.kernels.triton_pack import COUNTERS, GpuWeight, random_gpu_weight
from hwfit.precision import KNOWN, Precision

RUNS = [name for name in KNOWN if Precision.parse(name).weight_bits in (2, 4, 8)]
SHAPES = [(4096, 4096), (14336, 4096), (512, 2048), (128256, 4096), (576, 576), (40, 128)]
SOME = Config("dot", 16, 64, 4, 4, 3)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("sm", [80, 90])
def test_candidates_fit_their_device_and_differ(name: str, sm: int) -> None:
    p = Precision.parse(name)
    for (n, k), m in ((shape, m) for shape in SHAPES for m in (1, 2, 16, 17, 100, 2048)):
        found = candidates(m, n, k, p, sm)
        assert 1 <= len(found) <= 40
        assert len(set(found)) == len(found)
        for c in found:
            assert c.variant in ("skinny", "dot", "dense", "library")
            assert (c.variant == "skinny") <= (m <= 16 and p.act_bits == 16)
            if c.variant == "dot":
                assert c.stages * stage_bytes(c.bm, c.bn, p, k) <= SHARED_MEMORY[sm]
                assert c.bm <= max(64, 2 * m)
            if c.split > 1:
                assert -(-m // (c.bm or 1)) * -(-n // c.bn) <= COUNTERS
        assert any(c.variant == "dot" for c in found)


def test_short_products_are_split_and_long_ones_are_not() -> None:
    p = Precision.parse("w4a16g128")
    assert min(c.split for c in candidates(16, 1024, 4096, p, 90) if c.variant == "dot") > 1
    assert {c.split for c in candidates(4096, 14336, 4096, p, 90)} == {1}
    assert candidates(1, 4096, 4096, Precision.parse("w16a16"), 90) == ()


def test_configurations_read_as_words() -> None:
    assert str(SOME) == "dot bm16 bn64 split4 warps4 stages3"
    assert str(Config("dense")).startswith("dense")


@pytest.mark.parametrize(
    ("m", "expected"), [(1, 1), (2, 8), (9, 16), (16, 16), (17, 32), (65, 128), (2048, 2048), (2049, 4096)]
)
def test_rows_are_tuned_in_buckets(m: int, expected: int) -> None:
    assert bucket(m) == expected


class FakeGpu:
    """A machine that has a GPU by name only; `tune` counts its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path):
        self.tuned, self.capturing = 0, False
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA Test 9000 (PCIe)")
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.capturing)
        monkeypatch.setattr(triton_autotune, "tune", self.tune)
        self.forget()

    def tune(self, x: torch.Tensor, w: GpuWeight) -> Config:
        self.tuned += 1
        return SOME

    def forget(self) -> None:
        """What a new process knows."""
        triton_autotune._choices.clear()

    @property
    def file(self) -> Path:
        return triton_autotune.cache_dir() / "nvidia-test-9000-pcie.json"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    yield FakeGpu(monkeypatch, tmp_path)
    triton_autotune._choices.clear()


P = Precision.parse("w4a16g128")


def a_call(m: int = 3) -> tuple[torch.Tensor, GpuWeight]:
    w = random_gpu_weight(64, 128, P, torch.float16, "cpu")
    assert isinstance(w, GpuWeight)
    return torch.zeros(m, 128, dtype=torch.float16), w


def test_a_choice_is_made_once_and_outlives_the_process(gpu: FakeGpu) -> None:
    assert chosen(P, 3, 64, 128, torch.float16) == "untuned"
    assert choose(*a_call()) == SOME
    assert choose(*a_call(8)) == SOME  # the same bucket
    gpu.forget()
    assert choose(*a_call()) == SOME
    assert gpu.tuned == 1
    assert chosen(P, 3, 64, 128, torch.float16) == str(SOME)
    assert list(json.loads(gpu.file.read_text())["choices"]) == [key(P, torch.float16, 3, 64, 128)]
    choose(*a_call(100))
    assert gpu.tuned == 2
    assert len(json.loads(gpu.file.read_text())["choices"]) == 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[" * 100_000,
        "[]",
        '{"versions": {"kernels": "0"}, "choices": {}}',
        '{"choices": 3}',
        'GOOD{"x": {"variant": "dot"}}',
        'GOOD{"x": 3}',
        'GOOD{"x": {"variant":"dot","bm":-1,"bn":1,"split":1,"warps":4,"stages":2}}',
    ],
)
def test_a_damaged_or_old_cache_is_made_anew(gpu: FakeGpu, content: str) -> None:
    if content.startswith("GOOD"):
        content = json.dumps({"versions": triton_autotune._versions(), "choices": json.loads(content[4:])})
    gpu.file.parent.mkdir(parents=True)
    gpu.file.write_text(content)
    assert choose(*a_call()) == SOME
    gpu.forget()
    choose(*a_call())
    assert gpu.tuned == 1


def test_a_cache_that_cannot_be_written_is_kept_in_memory(gpu: FakeGpu) -> None:
    gpu.file.parent.parent.mkdir(parents=True)
    gpu.file.parent.write_text("a file where the folder should be")
    assert choose(*a_call()) == choose(*a_call()) == SOME
    assert gpu.tuned == 1


def test_nothing_is_timed_inside_a_graph(gpu: FakeGpu) -> None:
    gpu.capturing = True
    with pytest.raises(HwfitError, match=r"w4a16g128 float16 m8 n64 k128.*before capture"):
        choose(*a_call())
    gpu.capturing = False
    choose(*a_call())
    gpu.capturing = True
    assert choose(*a_call()) == SOME


def test_what_runs_without_a_gpu_is_the_default() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert chosen(P, 1, 64, 128) == str(default_config(1, P))
    assert chosen(Precision.parse("w16a16"), 1, 64, 128) == "cublas"


@pytest.mark.parametrize(
    ("name", "sm", "k", "reason"),
    [
        ("w32", 90, 64, "use w16a16"),
        ("w3a16g64", 90, 128, "use w4a16g64 or w2a16g64"),
        ("fp8", 80, 64, "sm_90.*this GPU is sm_80; use w8a8"),
        ("w4a16g64", 90, 96, "group size 64 of w4a16g64 does not divide the input width 96"),
        ("w4a16", 90, 40, "multiple of 32"),
        ("w4a16g64", 75, 64, "this GPU is sm_75; use w16a16"),
    ],
)
def test_what_does_not_run_says_why(name: str, sm: int, k: int, reason: str) -> None:
    assert re.search(reason, str(why_not(Precision.parse(name), sm, k)))


def test_everything_else_runs() -> None:
    for name in KNOWN:
        p = Precision.parse(name)
        for sm in (80, 90):
            runs = p.weight_bits not in (3, 32) and (sm == 90 or not p.float8)
            assert (why_not(p, sm, 4096) is None) == runs, name
    assert why_not(Precision.parse("w16a16"), 75, 33) is None


@pytest.mark.parametrize("bits", [4, 2])
def test_low_activations_say_that_they_would_gain_nothing(bits: int) -> None:
    text = low_activations_why_not(bits)
    assert f"{bits}-bit" in text
    assert "int8 kernels exactly as fast as A8" in text
    assert low_activations_why_not(bits) == why_not(Precision(4, bits, 128), 90, 128)
