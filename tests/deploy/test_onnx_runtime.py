"""ONNX graphs against transformers: whole and sliced, every precision, prefill, decode and scoring."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from deploy_llama import RUNS, hook_inputs, llama_with, narrow, parts, random_precisions, tiny_llama

from hwfit.deploy.bundle import Bundle, dense_weights, quantise_bundle, random_bundle
from hwfit.deploy.onnx_graph import write_onnx
from hwfit.deploy.runtime import OnnxModel
from hwfit.deploy.slice import subnet_config
from hwfit.errors import HwfitError
from hwfit.kernels.quantise import fake_quantise_activations
from hwfit.precision import Precision
from hwfit.subnet import Subnet

IDS = np.random.default_rng(0).integers(0, 512, (2, 40))


def small(choices: tuple[str, ...] = RUNS, seed: int = 0) -> Bundle:
    weights, shape, config = parts(tiny_llama())
    return quantise_bundle(weights, shape, config, random_precisions(narrow(shape), seed, choices))


def fake_quantised(bundle: Bundle) -> torch.nn.Module:
    """The same subnet in torch: dequantised weights, activations rounded as the kernels round them."""
    model = llama_with(dense_weights(bundle), subnet_config(bundle.config, bundle.subnet))
    by_name = {
        (key if key == "lm_head" else "model.layers.{}.{}.{}".format(key.split(".")[0], block, key.split(".")[1])): p
        for key, (_, _, p) in bundle.subnet.linears.items()
        for block in (["self_attn"] if key.split(".")[-1][0] in "qkvo" else ["mlp"])
    }
    hook_inputs(model, lambda name, x: fake_quantise_activations(x, by_name[name]))
    return model


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def norm_error(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def test_fp32_equals_transformers_in_prefill_and_16_decode_steps(tmp_path: Path) -> None:
    model = tiny_llama()
    weights, shape, config = parts(model)
    onnx_model = OnnxModel(
        write_onnx(quantise_bundle(weights, shape, config, Subnet.whole(shape)), tmp_path / "m.onnx")
    )
    with torch.no_grad():
        expected = model(torch.from_numpy(IDS)).logits.numpy()
    for row in (0, 1):  # the second sequence reuses the cache of the first
        assert relative(onnx_model.prefill(IDS[row, :24]), expected[row, 23]) < 1e-4
        for i in range(24, 40):
            assert relative(onnx_model.decode(int(IDS[row, i])), expected[row, i]) < 1e-4
    assert relative(onnx_model.all_logits(IDS), expected) < 1e-4


@pytest.mark.parametrize("name", ["w32", "w8a8", "w8a8g32", "w4a8g32", "w2a8g32", "mixed"])
def test_every_precision_equals_its_fake_quantised_twin(tmp_path: Path, name: str) -> None:
    """With the same rounding on both sides only fp32 summation order differs: 1e-6.

    But an activation that stands within that of a rounding boundary flips to the next of its 255 steps (about one in
    50,000 do), and what follows it in its sequence then rounds differently too, so such a sequence ends up as far off
    as another draw of the rounding noise: less than the cost of rounding activations at all. Hence two bounds: most
    of many short sequences agree to 1e-5, and all of them together stay under that cost.
    """
    bundle = small(RUNS if name == "mixed" else (name,))
    model = OnnxModel(write_onnx(bundle, tmp_path / "m.onnx"))
    twin = fake_quantised(bundle)
    plain = llama_with(dense_weights(bundle), subnet_config(bundle.config, bundle.subnet, uneven_mlp=True))
    ids = np.random.default_rng(1).integers(0, 512, (24, 6))
    got = model.all_logits(ids)
    with torch.no_grad():
        expected = np.concatenate([twin(torch.from_numpy(row[None])).logits.numpy() for row in ids])
        without = plain(torch.from_numpy(ids)).logits.numpy()
    errors = np.array([relative(g, e) for g, e in zip(got, expected, strict=True)])
    error, cost = norm_error(got, expected), norm_error(without, expected)
    flipped = np.mean(errors > 1e-5)
    print(f"{name}: median {np.median(errors):.1e}, flipped {flipped:.0%}, all {error:.1e}, cost {cost:.1e}")
    assert np.median(errors) < 1e-5
    assert error <= 0.7 * cost + 1e-5
    assert name == "w32" or cost > 5e-3


def test_decode_continues_prefill(tmp_path: Path) -> None:
    """Group-wise activations are rounded row by row, so one call or many give the same numbers, but for flips."""
    bundle = small(("w8a8g32", "w4a8g32", "w32"))
    model = OnnxModel(write_onnx(bundle, tmp_path / "m.onnx"))
    expected = model.all_logits(IDS[:1])[0]
    assert norm_error(model.prefill(IDS[0, :10]), expected[9]) < 5e-3
    for i in range(10, 40):
        assert norm_error(model.decode(int(IDS[0, i])), expected[i]) < 5e-3


def test_all_logits_rows_are_independent_and_leave_the_sequence_alone(tmp_path: Path) -> None:
    model = OnnxModel(write_onnx(small(("w8a8",)), tmp_path / "m.onnx"))
    first = model.prefill(IDS[0, :8]).copy()
    after = model.decode(5)
    model.prefill(IDS[0, :8])
    both = model.all_logits(IDS)
    assert np.array_equal(model.decode(5), after)
    assert np.array_equal(model.prefill(IDS[0, :8]), first)
    assert np.array_equal(model.all_logits(IDS[1:]), both[1:])
    part = model.all_logits(IDS, lengths=[30, 40], start=12)
    assert part.shape == (2, 28, 512)
    assert (
        np.array_equal(part[0, :18], model.all_logits(IDS[:1, :30])[0, 12:])
        or relative(part[0, :18], model.all_logits(IDS[:1, :30])[0, 12:]) < 2e-2
    )  # the LM head's one scale then spans other rows
    assert not part[0, 18:].any()


def test_uneven_mlp_and_random_weights_run(tmp_path: Path) -> None:
    bundle = small()
    _, _, config = parts(tiny_llama())
    subnet = dataclasses.replace(bundle.subnet, mlp=(128, 64, 192))
    model = OnnxModel(write_onnx(random_bundle(subnet, config), tmp_path / "m.onnx"))
    logits = model.all_logits(IDS)
    assert np.isfinite(logits).all()
    assert 0.05 < logits.std() < 20


def test_large_models_keep_their_weights_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = small()
    inline = OnnxModel(write_onnx(bundle, tmp_path / "inline.onnx")).all_logits(IDS)
    monkeypatch.setattr("hwfit.deploy.onnx_graph.EXTERNAL_OVER", 0)
    path = write_onnx(bundle, tmp_path / "external.onnx")
    assert path.stat().st_size < 300_000 < (tmp_path / "external.onnx.data").stat().st_size
    assert np.array_equal(OnnxModel(path).all_logits(IDS), inline)


def test_file_size_is_what_the_subnet_says(tmp_path: Path) -> None:
    bundle = small()
    size = write_onnx(bundle, tmp_path / "m.onnx").stat().st_size
    rotary = 2 * 512 * bundle.subnet.head_size // 2 * 4
    assert 0 <= size - bundle.subnet.weight_bytes - rotary < 60_000  # names, gains, metadata


def test_timing_calls(tmp_path: Path) -> None:
    model = OnnxModel(write_onnx(small(), tmp_path / "m.onnx", max_context=64))
    for _ in range(3):
        assert 0 < model.time_prefill(32) < 5
        assert 0 < model.time_decode(64) < 5
        assert 0 < model.time_decode(8, batch=3) < 5
        assert 0 < model.time_prefill(8, batch=2) < 5
    expected = model.all_logits(IDS[:1, :20])[0, -1]
    assert norm_error(model.prefill(IDS[0, :20]), expected) < 2e-2  # timing leaves no trace


def test_bad_input(tmp_path: Path) -> None:
    bundle = small()
    model = OnnxModel(write_onnx(bundle, tmp_path / "m.onnx", max_context=16))
    for call in (lambda: model.prefill(IDS[0]), lambda: model.all_logits(IDS), lambda: model.time_decode(17)):
        with pytest.raises(HwfitError, match="max_context of 16"):
            call()
    model.prefill(IDS[0, :16])
    with pytest.raises(HwfitError, match="17 tokens do not fit"):
        model.decode(1)
    with pytest.raises(HwfitError, match="no such ONNX file"):
        OnnxModel(tmp_path / "absent.onnx")
    (tmp_path / "half.onnx").write_bytes((tmp_path / "m.onnx").read_bytes()[:5000])
    with pytest.raises(HwfitError, match=r"half\.onnx"):
        OnnxModel(tmp_path / "half.onnx")
    foreign = onnx.load(tmp_path / "m.onnx")
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(HwfitError, match="not written by hwfit"):
        OnnxModel(tmp_path / "foreign.onnx")


def test_everything_the_graph_cannot_do_is_listed_at_once(tmp_path: Path) -> None:
    bundle = small()
    row = (Precision.parse("w3a16g32"), *bundle.subnet.precision[0][1:])
    subnet = dataclasses.replace(
        bundle.subnet, head_size=24, precision=(row, *bundle.subnet.precision[1:]), lm_head=Precision.parse("w16a16")
    )
    config = {
        **bundle.config,
        "attention_bias": True,
        "rope_scaling": {"type": "linear", "factor": 2.0},
        "rope_parameters": None,
    }
    with pytest.raises(HwfitError) as error:
        write_onnx(Bundle(subnet, config, bundle.tensors), tmp_path / "m.onnx")
    for part in (
        "attention_bias=True",
        "rope type linear",
        "multiples of 16",
        "0.q_proj: w3a16g32",
        "lm_head: w16a16",
    ):
        assert part in str(error.value)
    assert len(error.value.problems) == 5
    assert list(tmp_path.iterdir()) == []
