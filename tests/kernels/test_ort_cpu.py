"""Every node builder, run alone by ONNX Runtime, against float64 mathematics on the dequantised weights."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hwfit.errors import HwfitError
from hwfit.kernels import ort_cpu
from hwfit.kernels.ort_session import make_model, session, value
from hwfit.kernels.quantise import Quantised, dequantise, fake_quantise_activations, quantise
from hwfit.precision import Precision
from hwfit.rotary import Rotary

LINEARS = ["w8a8", *(f"w{b}a8g{g}" for b in (8, 4, 2) for g in (32, 64, 128))]


def run(part: ort_cpu.Part, feeds: dict[str, np.ndarray], external: bool = False) -> np.ndarray:
    nodes, arrays = part
    inputs = [value(n, a.dtype.type, a.shape) for n, a in feeds.items()]
    model = make_model(nodes, arrays, inputs, [value("y", np.float32, [None] * 2)], external)  # type: ignore[list-item]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return np.asarray(session(model, arrays=arrays if external else None).run(["y"], feeds)[0])


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def activations(m: int, k: int) -> Tensor:
    x = torch.randn(m, k, generator=torch.Generator().manual_seed(m)) + 0.2
    x[0, :3] *= 8
    return x


@pytest.mark.parametrize("name", LINEARS)
@pytest.mark.parametrize("m", [1, 5, 64])
def test_integer_linears_do_to_activations_what_fake_quantise_activations_does(name: str, m: int) -> None:
    p = Precision.parse(name)
    q = quantise(torch.randn(96, 384, generator=torch.Generator().manual_seed(0)) * 0.05, p)
    x = activations(m, 384)
    y = run(ort_cpu.linear_nodes("l", "x", "y", q), {"x": x.numpy()})
    w = dequantise(q).double().numpy().T
    assert relative(y, fake_quantise_activations(x, p).double().numpy() @ w) < 2e-6
    assert relative(y, x.double().numpy() @ w) > 1e-4  # so the line above does test the rounding


def test_float_linear_and_external_arrays() -> None:
    w, x = torch.randn(96, 384, generator=torch.Generator().manual_seed(0)), activations(5, 384)
    for external in (False, True):
        y = run(ort_cpu.linear_nodes("l", "x", "y", w), {"x": x.numpy()}, external)
        assert relative(y, x.double().numpy() @ w.double().numpy().T) < 2e-6


@pytest.mark.parametrize("name", ["w32", "w16a16", "w8a8", "w8a8g32", "w4a8g64", "w2a8g128", "w4a16g32"])
def test_embedding_gathers_dequantised_rows(name: str) -> None:
    p = Precision.parse(name)
    w = torch.randn(50, 128, generator=torch.Generator().manual_seed(0))
    table: Tensor | Quantised = w if p.weight_bits == 32 else w.half() if p.weight_bits == 16 else quantise(w, p)
    ids = np.array([[3, 49, 0], [3, 7, 7]])
    y = run(ort_cpu.embed_nodes("e", "ids", "y", table), {"ids": ids})
    rows = dequantise(table) if isinstance(table, Quantised) else table.float()
    assert y.shape == (2, 3, 128)
    assert relative(y, rows.numpy()[ids]) < 2e-6


@pytest.mark.parametrize("skip", [False, True])
def test_norm(skip: bool) -> None:
    x, r, gain = (activations(m, 64).numpy() for m in (4, 4, 1))
    part = ort_cpu.norm_nodes("n", "x", "y", gain[0], 1e-3, "r" if skip else None)
    y = run(part, {"x": x, **({"r": r} if skip else {})})
    total = (x + r if skip else x).astype(np.float64)
    assert relative(y, total / np.sqrt((total**2).mean(-1, keepdims=True) + 1e-3) * gain) < 2e-6


def test_swiglu() -> None:
    gate, up = activations(4, 64).numpy(), activations(5, 64).numpy()[:4]
    y = run(ort_cpu.swiglu_nodes("s", "gate", "up", "y"), {"gate": gate, "up": up})
    g = gate.astype(np.float64)
    assert relative(y, g / (1 + np.exp(-g)) * up) < 2e-6


def rotate(x: np.ndarray, start: int, theta: float) -> np.ndarray:
    """Llama's rotary embedding of `x[tokens, d]`, channel pair by channel pair, in float64."""
    out, half = np.zeros(x.shape), x.shape[1] // 2
    for t, i in np.ndindex(x.shape[0], half):
        angle = (start + t) * theta ** (-2 * i / x.shape[1])
        a, b = x[t, i], x[t, i + half]
        out[t, i], out[t, i + half] = a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)
    return out


@pytest.mark.parametrize(("past", "new"), [(0, 6), (5, 1), (3, 4)])
def test_attention_rotates_masks_and_reads_the_cache(past: int, new: int) -> None:
    heads, kv, d, length, theta = 4, 2, 16, 12, 10000.0
    total, rng = past + new, np.random.default_rng(0)
    q, k, v = (rng.standard_normal((total, h, d)) for h in (heads, kv, kv))
    keys = np.zeros((1, kv, length, d), np.float32)
    values = np.zeros_like(keys)
    for h in range(kv):
        keys[0, h, :past], values[0, h, :past] = rotate(k[:past, h], 0, theta), v[:past, h]
    nodes, arrays = ort_cpu.attention_nodes("a", "q", "k", "v", "y", ort_cpu.Cache.of(0), heads, kv)
    arrays["cos_cache"], arrays["sin_cache"] = Rotary(theta).tables(d, length)
    feeds = {n: a[past:].reshape(1, new, -1).astype(np.float32) for n, a in (("q", q), ("k", k), ("v", v))}
    feeds |= {"past.0.key": keys, "past.0.value": values}
    feeds |= {"seqlens_k": np.array([total - 1], np.int32), "total_length": np.array(total, np.int32)}
    y = run((nodes, arrays), feeds)[0].reshape(new, heads, d)
    for h in range(heads):
        scores = rotate(q[:, h], 0, theta) @ rotate(k[:, h // 2], 0, theta).T / np.sqrt(d)
        scores[np.triu_indices(total, 1)] = -np.inf
        weights = np.exp(scores - scores.max(1, keepdims=True))
        expected = weights / weights.sum(1, keepdims=True) @ v[:, h // 2]
        assert np.abs(y[:, h] - expected[past:]).max() < 1e-5


@pytest.mark.parametrize(("name", "reason"), [("w3a16g32", "not 3"), ("w4a16g32", "16-bit activations")])
def test_what_does_not_run_is_refused_with_the_reason(name: str, reason: str) -> None:
    q = quantise(torch.randn(8, 64), Precision.parse(name))
    with pytest.raises(HwfitError, match=f"{name}.*{reason}"):
        ort_cpu.linear_nodes("l", "x", "y", q)
    with pytest.raises(HwfitError, match="fp16"):
        ort_cpu.linear_nodes("l", "x", "y", torch.randn(8, 64).half())
