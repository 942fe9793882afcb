"""compressed-tensors: bytes against its own packing, and the rules by which vLLM serves a mixture."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from export_llama import module_precisions, searched, write_searched
from safetensors.torch import load_file

from hwfit.deploy import compressed, compressed_symmetric
from hwfit.deploy.bundle import Bundle
from hwfit.deploy.compressed_schemes import FUSED, Scheme, nearest_precisions, scheme_of
from hwfit.deploy.exporters import export_bundle
from hwfit.deploy.regrid import with_precisions
from hwfit.errors import HwfitError
from hwfit.kernels.quantise import Quantised, quantise
from hwfit.precision import KNOWN, Precision


@pytest.mark.parametrize("name", ["w4a8g32", "w4a16", "w8a8g32", "w8a16"])
@pytest.mark.parametrize("n", [16, 12])
def test_bytes_are_those_that_compressed_tensors_packs(name: str, n: int) -> None:
    pack = pytest.importorskip("compressed_tensors.compressors.pack_quantized").pack_to_int32
    q = quantise(torch.randn(n, 96), Precision.parse(name))
    packed = compressed._pack(q)
    offset = 0 if q.precision.symmetric else 8
    codes = (q.codes.to(torch.int16) - offset).to(torch.int8)
    assert torch.equal(packed["weight_packed"], pack(codes, q.precision.weight_bits))
    assert torch.equal(packed["weight_scale"], q.grid.scales.half())
    if q.grid.zeros is not None:
        zeros = (q.grid.zeros - 8).to(torch.int8)
        assert torch.equal(packed["weight_zero_point"], pack(zeros, 4, packed_dim=0))
    assert ("weight_zero_point" in packed) == (q.grid.zeros is not None)


@pytest.mark.parametrize("name", KNOWN)
def test_every_precision_has_a_scheme_that_validates_or_none(name: str) -> None:
    quantization = pytest.importorskip("compressed_tensors.quantization")
    scheme = scheme_of(Precision.parse(name))
    assert (scheme is None) == (name in ("w32", "w16a16"))
    if scheme:
        told = quantization.QuantizationScheme.model_validate(scheme.config(["x"]))
        assert told.weights.num_bits == scheme.bits
        assert (told.input_activations is not None) == (scheme.kind != "pack-quantized")
        assert told.weights.strategy == ("group" if scheme.group else "channel")


def served_as(bundle: Bundle) -> None:
    """What vLLM checks when it loads: one scheme in each fused matrix, 4 or 8 bits where there are zero points."""
    precisions = module_precisions(bundle)
    for i in range(len(bundle.subnet.blocks)):
        for parts in FUSED:
            names = [f"model.layers.{i}.{'self_attn' if x[0] in 'qkv' else 'mlp'}.{x}" for x in parts]
            assert len({scheme_of(precisions[name]) for name in names}) == 1
    inside = [p for name, p in precisions.items() if name != "lm_head"]
    assert all(p.is_float or p.weight_bits in (4, 8) for p in inside)


@pytest.mark.parametrize("seed", range(6))
def test_the_nearest_mixture_is_served_with_the_same_weights(seed: int) -> None:
    bundle = searched(seed=seed)
    found, notes = compressed.nearest(bundle)
    served_as(found)
    assert compressed.problems(found) == []
    assert len(notes) == bool(nearest_precisions(bundle))
    again, nothing = compressed.nearest(found)
    assert again.subnet == found.subnet
    assert nothing == []
    symmetric = compressed_symmetric.without_zero_points(bundle)
    assert all(p.is_float or p.symmetric for row in symmetric.subnet.precision for p in row)


def test_problems_tell_where_why_and_what_instead(tmp_path: Path) -> None:
    bundle = searched(("w8a8g32",))
    chosen = {
        "model.layers.1.self_attn.k_proj.weight": Precision.parse("w8a16g32"),  # the same scheme: no problem
        "model.layers.2.mlp.up_proj.weight": Precision.parse("w16a16"),
    }
    bundle = with_precisions(bundle, chosen)
    folder = write_searched(bundle, tmp_path / "s")
    with pytest.raises(HwfitError) as error:
        export_bundle(bundle, folder, tmp_path / "out", "compressed-tensors")
    (line,) = error.value.problems
    for part in ("gate_proj, up_proj", "1 blocks, such as 2 (w8a8g32, w16a16)", "--nearest", "w16a16"):
        assert part in line
    with pytest.raises(HwfitError, match=r"2- or 3-bit weights.*--nearest writes the same weights, there as w4a16g32"):
        export_bundle(searched(("w2a8g32",)), folder, tmp_path / "out", "compressed-tensors")


def test_the_config_names_every_linear_once(tmp_path: Path) -> None:
    bundle = searched(seed=3)
    exported = export_bundle(
        bundle, write_searched(bundle, tmp_path / "s"), tmp_path / "out", "compressed-tensors", True
    )
    told = json.loads((exported.folder / "config.json").read_text())["quantization_config"]
    named = [name for group in told["config_groups"].values() for name in group["targets"]]
    assert sorted([*named, *told["ignore"]]) == sorted(module_precisions(exported.bundle))
    assert told["format"] == "mixed-precision"
    assert "lm_head" in told["ignore"]
    tensors = load_file(exported.folder / "model.safetensors")
    assert tensors["model.embed_tokens.weight"].dtype == torch.float16
    sizes = {name: t.numel() * t.element_size() for name, t in tensors.items() if ".weight_packed" in name}
    for name, size in sizes.items():
        module = name.removesuffix(".weight_packed")
        weight = exported.bundle.tensors[f"{module}.weight"]
        assert isinstance(weight, Quantised)
        assert size == weight.codes.numel() * weight.precision.weight_bits // 8


def test_a_plain_subnet_has_no_quantisation_config(tmp_path: Path) -> None:
    bundle = searched(("w16a16", "w32"))
    exported = export_bundle(bundle, write_searched(bundle, tmp_path / "s"), tmp_path / "out", "compressed-tensors")
    assert "quantization_config" not in json.loads((exported.folder / "config.json").read_text())


def test_schemes_are_told_apart() -> None:
    assert scheme_of(Precision.parse("w8a8")) == Scheme("int-quantized", 8)
    assert scheme_of(Precision.parse("w8a8g32")) == Scheme("pack-quantized", 8, 32)
    assert dataclasses.replace(Scheme("pack-quantized", 4), group=64) == scheme_of(Precision.parse("w4a8g64"))
