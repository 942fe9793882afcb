"""The contract every backend keeps, over every kind of op and every known precision."""

import numpy as np
import pytest
import torch

from hwfit.errors import HwfitError
from hwfit.kernels.op import Op, linear
from hwfit.kernels.ort_chain import OrtChain, OrtCpu
from hwfit.kernels.pack import from_dynamic, from_nbits
from hwfit.kernels.quantise import dequantise, fake_quantise_activations
from hwfit.precision import KNOWN, Precision

CPU = OrtCpu()
RUNS = ["w32", "w8a8", "w8a8g32", "w8a8g64", "w4a8g32", "w4a8g128", "w2a8g32", "w2a8g64"]
OPS = [
    *(linear(m, 48, 128, name) for name in RUNS for m in (1, 6)),
    *(Op("embed", 5, 64, 128, name) for name in ("w32", "w16a16", "w8a8", "w8a8g32", "w4a8g32", "w2a8g32")),
    Op("attention", 1, 4, 2, head_size=16, context=9),
    Op("attention", 9, 4, 2, head_size=16, context=9),
    Op("attention", 18, 4, 2, head_size=32, context=9),
    Op("norm", 3, 0, 64),
    Op("swiglu", 3, 0, 64),
]


def outputs(chain: OrtChain) -> dict[str, np.ndarray]:
    names = [o.name for o in chain._session.get_outputs()]
    return dict(zip(names, chain._binding.copy_outputs_to_cpu(), strict=True))


@pytest.mark.parametrize("op", OPS, ids=str)
def test_every_supported_op_builds_and_runs(op: Op) -> None:
    assert CPU.why_not(op) is None
    chain = CPU.build(op, copies=3, seed=0)
    assert (chain.copies, chain.weight_bytes) == (3, 3 * CPU.copy_bytes(op))
    chain.run()
    chain.run()
    assert isinstance(chain, OrtChain)
    for name, array in outputs(chain).items():
        assert np.isfinite(array).all(), name
        assert array.any(), name
        assert np.abs(array).max() < 1e4, name
    assert CPU.kernel(op)


@pytest.mark.parametrize("name", RUNS)
def test_a_linear_chain_computes_its_copies(name: str) -> None:
    p = Precision.parse(name)
    chain = CPU.build(linear(6, 48, 128, name), copies=1, seed=0)
    chain.run()
    assert isinstance(chain, OrtChain)
    mine = {key.removeprefix("0."): a for key, a in chain._arrays.items()}
    w = (
        mine["weight"].T
        if p.is_float
        else dequantise(from_nbits(mine, p) if p.group else from_dynamic(mine, p)).numpy()
    )
    inputs = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 128), np.float32))
    expected = fake_quantise_activations(inputs, p).double().numpy() @ w.astype(np.float64).T
    got = outputs(chain)["y0"]
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("op", [op for op in OPS if op.kind in ("linear", "attention")], ids=str)
def test_copies_are_distinct_memory_and_distinct_bytes(op: Op) -> None:
    chain = CPU.build(op, copies=3, seed=0)
    assert isinstance(chain, OrtChain)
    by_key: dict[str, list[np.ndarray]] = {}
    for name, array in chain._arrays.items():
        copy, _, key = name.partition(".")
        if copy.isdigit():
            by_key.setdefault(key, []).append(array)
    if op.kind == "attention":
        by_key = {"past": [v.numpy() for n, v in chain._bound.items() if n.startswith("past")]}
    for key, arrays in by_key.items():
        assert op.kind == "attention" or len({a.tobytes() for a in arrays}) == 3, key
        assert len({a.ctypes.data for a in arrays}) == len(arrays), key


def test_seed_decides_the_weights() -> None:
    op = linear(1, 32, 64, "w8a8")
    a, b, c = (CPU.build(op, 1, seed)._arrays["0.codes"] for seed in (1, 1, 2))  # type: ignore[attr-defined]
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_every_precision_gets_a_verdict_in_words() -> None:
    verdicts = {name: CPU.why_not(linear(1, 128, Precision.parse(name).group or 128, name)) for name in KNOWN}
    for name, reason in verdicts.items():
        p = Precision.parse(name)
        grouped = p.group is not None or p.weight_bits == 8
        runs = name == "w32" or (p.act_bits == 8 and p.weight_bits in (2, 4, 8) and grouped and name != "fp8")
        assert (reason is None) == runs, name
        assert runs or "use w" in str(reason)
    assert "not 3" in str(verdicts["w3a16g32"])
    assert "fp16" in str(verdicts["w16a16"])
    assert "16-bit activations" in str(verdicts["w4a16g64"])


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (linear(1, 64, 96, "w4a8g64"), "group size 64 of w4a8g64 does not divide the input width 96"),
        (linear(1, 64, 96, "w3a16g32"), "not 3"),
        (linear(1, 64, 96, "w4a2g32"), "rounds activations to 8 bits, not 2; use w4a8g32"),
        (Op("attention", 1, 4, 2, head_size=24, context=8), "multiple of 16, not 24"),
        (Op("attention", 20, 4, 2, head_size=16, context=8), "no whole number of sequences"),
        (Op("embed", 1, 64, 96, "w3a16g32"), "not 3"),
    ],
    ids=str,
)
def test_what_does_not_run_says_why_and_refuses_to_build(op: Op, reason: str) -> None:
    assert reason in str(CPU.why_not(op))
    with pytest.raises(HwfitError, match=reason):
        CPU.build(op, 1, 0)


def test_a_kernel_the_library_lacks_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwfit.kernels.ort_chain._cpu_kernels", lambda: frozenset({"MatMul"}))
    assert "has no CPU kernel MatMulNBits" in str(CPU.why_not(linear(1, 32, 32, "w4a8g32")))
    assert CPU.why_not(linear(1, 32, 32, "w32")) is None


def test_its_libraries_are_told() -> None:
    assert set(CPU.fingerprint()) >= {"backend", "onnxruntime"}
