"""The space a device offers by default: precisions it has, in groups that divide every width."""

from __future__ import annotations

import pytest
from model_shapes import LLAMA_8B, SMOLLM2

from hwfit.space import DEFAULTS, Space
from hwfit.subnet import ModelShape

LLAMA_1B = ModelShape(2048, 32, 8, 64, 8192, 16, 128_256)
ODD = ModelShape(200, 5, 5, 40, 600, 4, 1000)


def names(space: Space) -> tuple[str, ...]:
    return tuple(p.name for p in space.precisions)


@pytest.mark.parametrize("shape", [SMOLLM2, LLAMA_8B, LLAMA_1B])
def test_the_processors_space_is_the_default_one(shape: ModelShape):
    assert Space.for_device(shape, "cpu") == Space.default(shape)
    assert Space.for_device(shape, "cpu", ("w32", "w8a8")) == Space.default(shape, ("w32", "w8a8"))


@pytest.mark.parametrize(("shape", "group"), [(LLAMA_8B, 128), (LLAMA_1B, 128), (SMOLLM2, 32)])
@pytest.mark.parametrize("sm", [80, 89, 90])
def test_a_gpus_space_has_groups_that_divide_every_width(shape: ModelShape, group: int, sm: int):
    space = Space.for_device(shape, "cuda", sm=sm)
    space.check()
    expected = ("w16a16", "w8a8", "w8a16", f"w4a16g{group}", f"w4a8g{group}")
    assert names(space) == (*expected, "fp8") if sm >= 90 else expected
    assert space.embed.name == "w16a16"
    assert space.hidden[0] == shape.hidden


def test_where_no_group_divides_only_precisions_without_are_left():
    space = Space.for_device(ODD, "cuda", sm=80)
    space.check()
    assert names(space) == ("w16a16", "w8a8", "w8a16")


def test_precisions_that_are_asked_for_are_kept_as_they_are():
    space = Space.for_device(LLAMA_8B, "cuda", ("w16a16", "w4a16g128"), sm=80)
    assert names(space) == ("w16a16", "w4a16g128")
    assert all(h % 128 == 0 for h in space.hidden)
    space.check()
    assert Space.for_device(LLAMA_8B, "cuda", ("w2a16g32",), sm=90).hidden == Space.default(LLAMA_8B).hidden


def test_defaults_are_known_precisions():
    for of in DEFAULTS.values():
        Space.default(LLAMA_8B, of.precisions, of.embed)
