"""The GPU backend with dense weights on CPU tensors: every op builds, runs and computes; refusals in words."""

from __future__ import annotations

import pytest
import torch

from hwfit.errors import HwfitError
from hwfit.kernels import cuda_env, cuda_kit, cuda_ops
from hwfit.kernels.cuda import COLD, CudaBackend
from hwfit.kernels.cuda_graph import EagerLauncher
from hwfit.kernels.cuda_kit import DenseKit, TritonKit
from hwfit.kernels.op import Op, linear, sequences
from hwfit.precision import Precision

CPU = torch.device("cpu")
OPS = [
    *(linear(m, 48, 128, name) for name in ("w16a16", "w8a8", "w4a16g128") for m in (1, 6)),
    *(Op("embed", 5, 64, 128, name) for name in ("w32", "w16a16", "w8a8", "w8a8g32", "w4a16g32", "w2a8g32")),
    Op("attention", 1, 4, 2, head_size=16, context=9),
    Op("attention", 3, 4, 2, head_size=16, context=9),
    Op("attention", 9, 4, 2, head_size=16, context=9),
    Op("attention", 18, 4, 2, head_size=32, context=9),
    Op("norm", 3, 0, 64),
    Op("swiglu", 3, 0, 64),
]


def backend(l2: int = 1 << 20, free: int = 1 << 40) -> CudaBackend:
    return CudaBackend(DenseKit(CPU), EagerLauncher(CPU), l2, lambda: free)


@pytest.mark.parametrize("op", OPS, ids=str)
def test_every_op_builds_and_runs(op: Op):
    device = backend()
    assert device.why_not(op) is None
    chain = device.build(op, copies=5, seed=0)
    assert (chain.copies, chain.weight_bytes) == (5, 5 * device.copy_bytes(op))
    chain.run()
    for step in chain._steps:
        out = step()
        assert isinstance(out, torch.Tensor)
        assert out.isfinite().all()
        assert out.any()
    assert device.kernel(op)
    assert device.launcher.seconds(chain.run) > 0


def test_a_chain_launches_all_copies_in_turn():
    calls: list[int] = []

    class Recording(DenseKit):
        def linear(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            calls.append(w.data_ptr())
            return super().linear(x, w)

    op = linear(1, 64, 128, "w16a16")
    each = 64 * 128 * 2
    device = CudaBackend(Recording(CPU), EagerLauncher(CPU), 3 * each // COLD, lambda: 1 << 40)
    device.why_not(op)
    calls.clear()
    chain = device.build(op, copies=8, seed=0)
    assert chain.distinct == 3, "what it takes to read COLD times the L2"
    assert len(calls) == 8
    assert len(set(calls)) == 3
    assert calls[:3] == calls[3:6]
    assert calls[6:] == calls[:2]
    assert device.resident_bytes(op, 8) == 3 * each


def test_distinct_copies_leave_most_of_the_memory_free():
    op = linear(1, 1024, 1024, "w16a16")
    assert backend(l2=1 << 30, free=100 << 20).distinct(op, 400) == 12  # a quarter of 100 MiB in copies of 2 MiB
    assert backend(l2=1 << 30, free=1 << 10).distinct(op, 400) == 1
    assert backend(l2=1 << 20).distinct(op, 400) == 8


def test_copies_are_distinct_and_the_seed_decides():
    device = backend()
    op = linear(2, 32, 64, "w16a16")
    first, again, other = (device.build(op, 3, seed)._steps for seed in (1, 1, 2))
    values = [step() for step in (*first, *again, *other)]
    assert all(torch.equal(a, b) for a, b in zip(values[:3], values[3:6], strict=True))
    for i, a in enumerate(values):
        for j in range(i):
            assert torch.equal(a, values[j]) == (i - j == 3 and i < 6)


def test_a_norm_chain_stays_finite_however_often_it_runs():
    """The stream grows until its type absorbs what is added: 16-bit types stop far below their largest value."""
    device = CudaBackend(DenseKit(CPU, torch.float16), EagerLauncher(CPU), 1 << 20, lambda: 1 << 40)
    chain = device.build(Op("norm", 2, 0, 32), copies=50, seed=0)
    for _ in range(200):
        chain.run()
    assert chain._steps[0]().isfinite().all()


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (Op("attention", 1, 8, 2, head_size=64, context=128), (1, 1)),
        (Op("attention", 16, 8, 2, head_size=64, context=128), (16, 1)),
        (Op("attention", 128, 8, 2, head_size=64, context=128), (1, 128)),
        (Op("attention", 256, 8, 2, head_size=64, context=128), (2, 128)),
    ],
)
def test_rows_of_attention_are_prompts_or_one_token_each(op: Op, expected: tuple[int, int]):
    assert sequences(op) == expected
    assert backend().copy_bytes(op) == 2 * 4 * expected[0] * op.context * op.k * op.head_size


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (linear(1, 64, 96, "w4a16g64"), "group size 64 of w4a16g64 does not divide the input width 96"),
        (Op("attention", 20, 4, 2, head_size=16, context=8), "no whole number of sequences"),
        (Op("attention", 1, 4, 2, head_size=20, context=8), "multiples of 8 up to 256, not 20"),
        (Op("embed", 1, 64, 96, "w3a16g32"), "w3a16g32 are not gathered"),
        (Op("embed", 1, 64, 96, "fp8"), "fp8 are not gathered"),
    ],
    ids=str,
)
def test_what_does_not_run_says_why_and_refuses_to_build(op: Op, reason: str):
    assert reason in str(backend().why_not(op))
    with pytest.raises(HwfitError, match=reason):
        backend().build(op, 1, 0)


def test_the_gpu_asks_the_kernels_about_precisions():
    """On compute capability 8.0: what runs, and what is refused, naming what has it or what to use."""
    kit = TritonKit(CPU, 80)
    for name in ("w16a16", "w8a8", "w8a16", "w4a16g128", "w4a8g128"):
        assert kit.why_not(Precision.parse(name), 4096) is None, name
    assert "use w16a16" in str(kit.why_not(Precision.parse("w32"), 4096))
    fp8 = str(kit.why_not(Precision.parse("fp8"), 4096))
    assert "H100" in fp8
    assert "sm_80" in fp8


@pytest.mark.parametrize(
    "name", ["w16a16", "w8a8", "w8a16", "w4a16", "w4a16g128", "w8a16g32", "w4a8g64", "w2a8g128", "w2a16g32", "fp8"]
)
@pytest.mark.parametrize("k", [384, 1152])
def test_bytes_are_those_of_the_packed_weight(name: str, k: int):
    p, kit = Precision.parse(name), TritonKit(CPU, 90)
    assert kit.weight_bytes(p, 96, k) == kit.random(96, k, p, 0).nbytes


def test_a_kernel_that_fails_is_a_reason_and_is_tried_once():
    class Broken(DenseKit):
        tries = 0

        def linear(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            self.tries += 1
            raise RuntimeError("PTX was compiled with\nan unsupported toolchain")

    kit = Broken(CPU)
    device = CudaBackend(kit, EagerLauncher(CPU), 1 << 20, lambda: 1 << 40)
    for n in (64, 128):
        assert "unsupported toolchain" in str(device.why_not(linear(1, n, 128, "w8a8")))
    assert kit.tries == 1
    assert device.why_not(Op("norm", 1, 0, 64)) is None


def test_out_of_memory_says_how_much_is_needed_and_free(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cuda_env, "free_memory", lambda: 1_500_000_000)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    class Full(DenseKit):
        def random(self, n: int, k: int, p: Precision, seed: int) -> torch.Tensor:
            if n > 256:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().random(n, k, p, seed)

    device = CudaBackend(Full(CPU), EagerLauncher(CPU), 1 << 30, lambda: 1 << 40)
    with pytest.raises(HwfitError, match=r"needs about 8\.4 GB of GPU memory, 1\.5 GB are free; free the GPU's"):
        device.build(linear(1, 128_256, 8192, "w16a16"), 4, 0)


@pytest.mark.parametrize("name", ["w8a8", "w8a8g32", "w4a8g64", "w4a16", "w2a8g32"])
def test_random_tables_have_the_spread_of_a_layer(name: str):
    table = cuda_kit.random_table(64, 256, Precision.parse(name), DenseKit(CPU), 0)
    rows = cuda_ops.embed(table, torch.arange(64), torch.float32)
    assert abs(float(rows.std()) * 256**0.5 - 1) < 0.1
    assert abs(float(rows.mean())) * 256**0.5 < 0.5  # codes of an even number of steps are not centred


def test_without_a_gpu_everything_missing_is_said_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(cuda_env, "find_spec", lambda name: None)
    with pytest.raises(HwfitError) as error:
        CudaBackend.current()
    text = "\n".join(error.value.problems)
    assert len(error.value.problems) == 3
    assert "has no CUDA" in text
    assert "triton is not installed; pip install 'hwfit[gpu]'" in text
    assert "nvidia-ml-py is not installed" in text


@pytest.mark.parametrize(
    ("visible", "driver", "said"),
    [
        ("", None, "CUDA_VISIBLE_DEVICES hides every GPU"),
        (None, None, "no NVIDIA driver answers"),
        (None, ("470.1", "11.4"), "driver 470.1 speaks CUDA 11.4 at most"),
    ],
)
def test_a_driver_that_does_not_fit_is_told_from_none(monkeypatch: pytest.MonkeyPatch, visible, driver, said: str):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cuda_env, "driver_versions", lambda: driver)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert said in cuda_env.cuda_problems()[0]
