"""Regridding changes no value, and says when it would."""

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from export_llama import logits, norm_error, searched, twin

from hwfit.deploy.bundle import Bundle, load_bundle, rounded_weights, save_bundle, weight_specs
from hwfit.deploy.regrid import common_precision, even_width, holds, pad_mlp, regrid, with_precisions
from hwfit.errors import HwfitError
from hwfit.kernels.quantise import Quantised, dequantise, quantise
from hwfit.precision import KNOWN, Precision

GRIDS = [p for p in map(Precision.parse, KNOWN) if not p.is_float]
WEIGHT = torch.randn(6, 256, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("part", GRIDS, ids=str)
def test_a_wider_grid_holds_every_value_and_a_narrower_one_is_refused(part: Precision) -> None:
    weight = quantise(WEIGHT, part)
    wide = 0
    for p in GRIDS:
        if holds(p, part, 256):
            made = regrid("w", weight, p)
            assert isinstance(made, Quantised)
            assert torch.equal(dequantise(made), dequantise(weight))
            assert made.precision == p
            low, high = (-127, 127) if p.symmetric else (0, 2**p.weight_bits - 1)
            assert low <= int(made.codes.min()) <= int(made.codes.max()) <= high
            wide += 1
        else:
            with pytest.raises(HwfitError, match="not part of the grid"):
                regrid("w", weight, p)
    assert wide >= 1  # itself
    assert torch.equal(regrid("w", weight, Precision.parse("w32")), dequantise(weight))
    half = regrid("w", weight, Precision.parse("w16a16"))
    assert half.dtype == torch.float16  # type: ignore[union-attr]


def test_what_two_precisions_have_in_common_holds_both() -> None:
    for pair in itertools.combinations(GRIDS, 2):
        p = common_precision(pair, 256)
        assert all(holds(p, part, 256) for part in pair), pair
        assert p.act_bits == 16
        assert p.weight_bits in (4, 8)


def test_a_float_among_them_makes_all_sixteen_bits() -> None:
    assert common_precision([Precision.parse("w4a8g32"), Precision.parse("fp8")], 64).name == "w16a16"


def test_with_precisions_keeps_the_bundle_whole(tmp_path: Path) -> None:
    bundle = searched(("w2a8g32", "w4a8g64", "w8a8", "fp8"))
    chosen = {
        name: Precision.parse("w16a16" if p.is_float else "w8a16g32")
        for name, (_, _, p) in weight_specs(bundle.subnet).items()
    }
    wide = with_precisions(bundle, chosen)
    assert {p for _, _, p in weight_specs(wide.subnet).values()} == set(chosen.values())
    before, after = rounded_weights(bundle), rounded_weights(wide)
    for name, w in before.items():
        close = 2**-11 if name in chosen and chosen[name].is_float else 0.0
        assert (after[name] - w).abs().max() <= close * w.abs().max() + 1e-7 * (close > 0)
    assert load_bundle(save_bundle(wide, tmp_path)).subnet == wide.subnet


@pytest.mark.parametrize("choice", ["w32", "w8a8", "w8a8g32", "w4a8g64", "w4a16", "w2a8g32"])
def test_zeros_in_the_mlp_change_no_logit(choice: str) -> None:
    bundle = searched((choice, "w32"), mlp=(128, 64, 192))
    width = even_width(bundle)
    assert width >= 192
    assert all(width % (row[-1].group or 1) == 0 for row in bundle.subnet.precision)
    padded = pad_mlp(bundle, width)
    assert padded.config["intermediate_size"] == width
    assert norm_error(logits(twin(padded)), logits(twin(bundle))) < 1e-6


def test_the_even_width_is_a_multiple_of_every_group() -> None:
    bundle = searched(("w4a8g64", "w4a8g32", "w32"), mlp=(128, 64, 192))
    rows = tuple(
        (*row[:-1], Precision.parse(p)) for row, p in zip(bundle.subnet.precision, ("w4a8g128",) * 3, strict=True)
    )
    wide = Bundle(dataclasses.replace(bundle.subnet, precision=rows), bundle.config, bundle.tensors)
    assert even_width(wide) == 256
