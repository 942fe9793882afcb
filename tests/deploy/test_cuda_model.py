"""The GPU's whole model on CPU tensors against transformers: prefill, decode, batches, quantised weights, timing."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from deploy_llama import LLAMA3, llama_with, narrow, parts, random_precisions, tiny_llama

from hwfit.deploy.bundle import Bundle, dense_weights, quantise_bundle
from hwfit.deploy.cuda_model import CudaModel
from hwfit.deploy.cuda_weights import random_weights, unsupported
from hwfit.deploy.slice import subnet_config
from hwfit.errors import HwfitError
from hwfit.kernels.cuda_graph import EagerLauncher
from hwfit.kernels.cuda_kit import DenseKit
from hwfit.precision import Precision
from hwfit.subnet import Subnet

CPU = torch.device("cpu")
IDS = np.random.default_rng(0).integers(0, 512, (2, 40))
GPU_RUNS = ("w16a16", "w8a8", "w8a16g32", "w4a16g32", "w4a8g32", "w2a16g32", "fp8")


def deployed(bundle: Bundle, dtype: torch.dtype = torch.float32, max_context: int = 64) -> CudaModel:
    return CudaModel.of(bundle, DenseKit(CPU, dtype), EagerLauncher(CPU), max_context)


def whole(**overrides) -> tuple[Bundle, torch.nn.Module]:
    model = tiny_llama(**overrides)
    weights, shape, config = parts(model)
    return quantise_bundle(weights, shape, config, Subnet.whole(shape)), model


def small() -> Bundle:
    """Sliced, with a random GPU precision for each linear."""
    weights, shape, config = parts(tiny_llama())
    mixed = random_precisions(narrow(shape), 0, GPU_RUNS)
    return quantise_bundle(weights, shape, config, dataclasses.replace(mixed, embed=Precision.parse("w4a16g32")))


def relative(got: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.abs(got.numpy() - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float16, 2e-2)])
def test_equals_transformers_in_prefill_and_16_decode_steps(dtype: torch.dtype, bound: float):
    bundle, llama = whole()
    model = deployed(bundle, dtype)
    with torch.no_grad():
        expected = llama.double()(torch.from_numpy(IDS)).logits.numpy()
    assert relative(model.all_logits(IDS), expected) < bound
    for row in (0, 1):  # the second sequence reuses the cache of the first
        assert relative(model.prefill(IDS[row, :24]), expected[row, 23]) < bound
        for i in range(24, 40):
            assert relative(model.decode(int(IDS[row, i])), expected[row, i]) < bound


@pytest.mark.parametrize("stretch", [{"rope_type": "default"}, LLAMA3], ids=["plain", "llama3"])
def test_rotary_embedding_and_epsilon_come_from_the_config(stretch: dict):
    bundle, llama = whole(rope_parameters={"rope_theta": 500.0, **stretch}, rms_norm_eps=0.1)
    with torch.no_grad():
        expected = llama(torch.from_numpy(IDS)).logits.numpy()
    assert relative(deployed(bundle).all_logits(IDS), expected) < 1e-5


def test_a_sliced_quantised_model_is_its_dequantised_twin():
    bundle = small()
    twin = llama_with(dense_weights(bundle), subnet_config(bundle.config, bundle.subnet))
    with torch.no_grad():
        expected = twin(torch.from_numpy(IDS)).logits.numpy()
    model = deployed(bundle)
    assert relative(model.all_logits(IDS), expected) < 1e-5
    assert relative(model.prefill(IDS[0, :30]), expected[0, 29]) < 1e-5
    assert relative(model.decode(int(IDS[0, 30])), expected[0, 30]) < 1e-5


def test_random_weights_are_made_in_their_own_type_and_keep_the_signal():
    bundle = small()
    subnet = dataclasses.replace(bundle.subnet, mlp=(128, 64, 192))
    kit = DenseKit(CPU, torch.float16)
    weights = random_weights(subnet, parts(tiny_llama())[2], kit, seed=3)
    assert {w.dtype for block in weights.blocks for w in block.linears.values()} == {torch.float16}
    assert weights.nbytes > 0
    model = CudaModel(subnet, weights, kit, EagerLauncher(CPU), 64)
    logits = model.all_logits(IDS)
    assert logits.isfinite().all()
    assert 0.05 < float(logits.std()) < 20
    other = CudaModel.random(subnet, parts(tiny_llama())[2], kit, EagerLauncher(CPU), 64, seed=4)
    assert not torch.equal(other.all_logits(IDS), logits)


def test_packed_weights_and_triton_kernels_in_the_interpreter():
    """Prefill and decode with every kind of kernel in one model, against its dequantised twin in float64."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed (extra `gpu`)")
    script = Path(__file__).with_name("model_in_interpreter.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["errors"]) == 4
    assert max(found["errors"]) < 0.03, found  # 8-bit activations round to 1 part in 254
    assert found["random_is_finite"]


def test_timing_calls_capture_each_shape_once_and_leave_sequences_right():
    captured = []

    class Counting(EagerLauncher):
        def capture(self, work):
            captured.append(work)
            return super().capture(work)

    bundle, _ = whole()
    model = CudaModel.of(bundle, DenseKit(CPU), Counting(CPU), 64)
    expected = model.prefill(IDS[0, :20])
    for _ in range(3):
        assert model.time_prefill(32) > 0
        assert model.time_decode(64) > 0
        assert model.time_decode(8, batch=3) > 0
        assert model.time_prefill(8, batch=2) > 0
    assert len(captured) == 4
    assert torch.equal(model.prefill(IDS[0, :20]), expected)
    assert relative(model.decode(int(IDS[0, 20])), model.all_logits(IDS[:1, :21])[0, 20].numpy()) < 1e-5


def test_what_is_captured_is_the_forward_call_itself():
    """The replayed work gives the logits of the same tokens run eagerly."""
    seen = []

    class Keeping(EagerLauncher):
        def capture(self, work):
            seen.append(work())
            return super().capture(work)

    bundle, _ = whole()
    model = CudaModel.of(bundle, DenseKit(CPU), Keeping(CPU), 64)
    model.time_prefill(16, batch=2)
    ids = torch.randint(0, 512, (2, 16), generator=torch.Generator().manual_seed(0)).numpy()
    assert torch.allclose(seen[0][:, 0], model.all_logits(ids)[:, -1], atol=1e-5)


def test_bad_input():
    bundle, _ = whole()
    model = deployed(bundle, max_context=16)
    for call in (lambda: model.prefill(IDS[0]), lambda: model.all_logits(IDS), lambda: model.time_decode(17)):
        with pytest.raises(HwfitError, match="max_context of 16"):
            call()
    model.prefill(IDS[0, :16])
    with pytest.raises(HwfitError, match="17 tokens do not fit"):
        model.decode(1)
    with pytest.raises(HwfitError, match="max_context=0"):
        deployed(bundle, max_context=0)


def test_everything_the_device_cannot_run_is_listed_at_once():
    class Old(DenseKit):
        def why_not(self, p: Precision, k: int) -> str | None:
            return "this GPU has no fp8; H100 and H200 have" if p.float8 else None

    bundle = small()
    row = (Precision.parse("fp8"), *(Precision.parse("w16a16"),) * 6)
    subnet = dataclasses.replace(bundle.subnet, precision=(row,) * 3, embed=Precision.parse("w3a16g32"))
    config = {**bundle.config, "attention_bias": True, "rope_parameters": {"rope_type": "yarn"}}
    problems = unsupported(subnet, config, Old(CPU))
    for part in ("attention_bias=True", "rope type yarn", "0.q_proj: fp8 does not run", "H100", "embed: "):
        assert any(part in problem for problem in problems), part
    with pytest.raises(HwfitError) as error:
        CudaModel.of(Bundle(subnet, config, bundle.tensors), Old(CPU), EagerLauncher(CPU))
    assert error.value.problems == problems


def test_out_of_memory_says_what_would_fit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hwfit.kernels.cuda_env.free_memory", lambda: 1_000_000_000)

    class Full(DenseKit):
        def random(self, n: int, k: int, p: Precision, seed: int) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    bundle, _ = whole()
    with pytest.raises(
        HwfitError, match=r"free; use fewer weight bits \(this is 32\.0 on average; 4 need about 0\.1 GB"
    ):
        CudaModel.random(bundle.subnet, bundle.config, Full(CPU), EagerLauncher(CPU))
