"""Bundles survive the disk exactly, and a broken folder is refused with every problem named."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from deploy_llama import parts, random_precisions, tiny_llama
from safetensors.torch import load_file, save_file

from hwfit.deploy.bundle import (
    Bundle,
    dense_weights,
    load_bundle,
    quantise_bundle,
    random_bundle,
    save_bundle,
    weight_specs,
)
from hwfit.deploy.slice import slice_weights
from hwfit.errors import HwfitError
from hwfit.kernels.quantise import Quantised, fake_quantise, minmax_grid
from hwfit.precision import Precision
from hwfit.subnet import Subnet


def small_subnet(seed: int = 0) -> tuple[Subnet, Bundle]:
    weights, shape, config = parts(tiny_llama())
    whole = Subnet.whole(shape)
    subnet = dataclasses.replace(
        whole, hidden=64, heads=6, kv_heads=3, blocks=(0, 3), mlp=(128, 64), precision=whole.precision[:2]
    )
    choices = ("w32", "w16a16", "w8a8", "w8a8g32", "w4a8g32", "w3a16g32", "w2a8g64")
    subnet = random_precisions(subnet, seed, choices)
    return subnet, quantise_bundle(weights, shape, config, subnet)


def test_quantise_bundle_slices_then_quantises_each_linear_at_its_precision() -> None:
    weights, shape, _ = parts(tiny_llama())
    subnet, bundle = small_subnet()
    sliced, dense = slice_weights(weights, shape, subnet), dense_weights(bundle)
    assert set(sliced) == set(bundle.tensors) == set(dense)
    for name, (n, k, p) in weight_specs(subnet).items():
        assert dense[name].shape == (n, k)
        assert isinstance(bundle.tensors[name], Quantised) != p.is_float
        error = (dense[name] - sliced[name]).square().sum()
        if p.is_float:
            assert error <= 1e-6 * sliced[name].square().sum()
        else:
            assert (
                0
                < error
                <= (fake_quantise(sliced[name], p, minmax_grid(sliced[name], p)) - sliced[name]).square().sum()
            )
    for name in set(sliced) - set(weight_specs(subnet)):
        assert torch.equal(dense[name], sliced[name])


def test_energy_reaches_the_grid_of_its_own_linear() -> None:
    weights, shape, config = parts(tiny_llama())
    subnet = Subnet.whole(shape, "w2a8g32", "w32")
    energy = torch.ones(128)
    energy[64:] = 2**-20
    plain = dense_weights(quantise_bundle(weights, shape, config, subnet))
    steered = dense_weights(
        quantise_bundle(weights, shape, config, subnet, {"model.layers.1.self_attn.k_proj": energy})
    )
    assert [n for n in plain if not torch.equal(plain[n], steered[n])] == []  # constant within groups: nothing to trade
    energy[::2] = 1e-6
    steered = dense_weights(
        quantise_bundle(weights, shape, config, subnet, {"model.layers.1.self_attn.k_proj": energy})
    )
    assert [n for n in plain if not torch.equal(plain[n], steered[n])] == ["model.layers.1.self_attn.k_proj.weight"]


@pytest.mark.parametrize("seed", range(4))
def test_save_and_load_are_exact_inverses(tmp_path: Path, seed: int) -> None:
    subnet, bundle = small_subnet(seed)
    loaded = load_bundle(save_bundle(bundle, tmp_path / "b"))
    assert loaded.subnet == subnet
    assert loaded.config == json.loads(json.dumps(bundle.config))
    assert set(loaded.tensors) == set(bundle.tensors)
    for name, a in bundle.tensors.items():
        b = loaded.tensors[name]
        if isinstance(a, Quantised):
            assert isinstance(b, Quantised)
            assert torch.equal(a.codes, b.codes) and a.codes.dtype == b.codes.dtype  # noqa: PT018
            assert torch.equal(a.grid.scales, b.grid.scales)
            assert a.grid.zeros is b.grid.zeros is None or torch.equal(a.grid.zeros, b.grid.zeros)  # type: ignore[arg-type]
        else:
            assert torch.equal(a, b)  # type: ignore[arg-type]
    assert [f.name for f in (tmp_path / "b").iterdir() if f.name.endswith(".tmp")] == []


def test_random_bundles_have_the_right_sizes_and_differ_by_seed(tmp_path: Path) -> None:
    subnet, bundle = small_subnet()
    _, _, config = parts(tiny_llama())
    a, b = random_bundle(subnet, config, 0), random_bundle(subnet, config, 1)
    assert load_bundle(save_bundle(a, tmp_path)).subnet == subnet  # load checks every size
    assert set(a.tensors) == set(bundle.tensors)
    name = "model.layers.0.mlp.down_proj.weight"
    assert not torch.equal(dense_weights(a)[name], dense_weights(b)[name])
    for n, w in dense_weights(a).items():
        if w.ndim == 2:
            assert 0.5 < float(w.std() * w.shape[1] ** 0.5) < 2, n


def test_a_broken_folder_is_refused_with_every_problem(tmp_path: Path) -> None:
    _, bundle = small_subnet()
    with pytest.raises(HwfitError) as error:
        load_bundle(tmp_path)
    assert len(error.value.problems) == 3
    save_bundle(bundle, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.norm.weight"]
    tensors["extra"] = torch.zeros(1)
    tensors["model.layers.0.input_layernorm.weight"] = torch.full((64,), torch.nan)
    tensors["model.layers.1.input_layernorm.weight"] = torch.ones(63)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(HwfitError) as error:
        load_bundle(tmp_path)
    text = str(error.value)
    for part in (
        "'model.norm.weight' is missing",
        "'extra' belongs to no part",
        "not finite",
        "must be torch.float32 (64,)",
    ):
        assert part in text
    assert len(error.value.problems) == 4
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_size": 96}))
    with pytest.raises(HwfitError, match="hidden is 96; must be 64"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "subnet.json"])
def test_truncated_files_are_named(tmp_path: Path, name: str) -> None:
    save_bundle(small_subnet()[1], tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(HwfitError, match=str(tmp_path)):
        load_bundle(tmp_path)


def test_a_failed_write_leaves_no_bundle_that_looks_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, bundle = small_subnet()
    save_bundle(bundle, tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hwfit.deploy.bundle.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_bundle(bundle, tmp_path)
    assert not (tmp_path / "subnet.json").exists()
    assert list(tmp_path.glob(".*.tmp")) == []


def test_three_bit_codes_fit_a_nibble() -> None:
    weights, shape, config = parts(tiny_llama())
    bundle = quantise_bundle(weights, shape, config, Subnet.whole(shape, "w3a16g32", "w32"))
    q = bundle.tensors["lm_head.weight"]
    assert isinstance(q, Quantised)
    assert q.precision == Precision.parse("w3a16g32")
    assert int(q.codes.max()) == 7
