"""What a table cannot price is left out of a derived space, and refused with every missing layer otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest
from synthetic_table import DEVICE, WORKLOAD, frame, space_ops, tiny_space

from hwfit.errors import HwfitError
from hwfit.kernels.op import Op
from hwfit.latency_models.lookup import Lookup
from hwfit.latency_models.priced_space import needed_ops, priceable, refuse_unpriced, unpriced
from hwfit.precision import Precision

PHASES = (WORKLOAD.decode, WORKLOAD.prefill)
SPACE = replace(tiny_space(), hidden=(128, 96, 64), mlp=(256, 192, 128))


def table(space=SPACE, lost=lambda op: False) -> Lookup:
    return Lookup.fit(frame(op for phase in PHASES for op in space_ops(space, phase) if not lost(op)), DEVICE)


def test_what_is_needed_is_every_op_of_the_space_by_layer():
    needed = needed_ops(SPACE, PHASES)
    assert set(needed) == {op for phase in PHASES for op in space_ops(SPACE, phase)}
    assert needed[Op("linear", 1, 128, 256, "w32")] == {"down_proj"}
    assert needed[Op("linear", 1, 192, 96, "w32")] == {"gate_proj", "up_proj"}


def test_a_table_with_all_of_a_space_leaves_it_as_it_is():
    assert not unpriced(SPACE, table(), PHASES)
    assert priceable(SPACE, table(), PHASES) == (SPACE, [])


def test_a_precision_and_a_width_without_prices_are_left_out_and_no_more():
    """Measured: one precision of two, hidden sizes down to 96 only."""
    measured = replace(SPACE, hidden=(128, 96), precisions=SPACE.precisions[1:])
    got, left_out = priceable(SPACE, table(measured), PHASES)
    assert got == measured
    assert sorted(left_out) == ["hidden=64", "w32"]


def test_widths_between_measured_ones_are_kept():
    corners = replace(SPACE, hidden=(128, 64), mlp=(256, 128))
    assert priceable(SPACE, table(corners), PHASES) == (SPACE, [])


def test_head_sizes_whose_attention_does_not_run_are_left_out():
    got, left_out = priceable(SPACE, table(lost=lambda op: op.kind == "attention" and op.head_size == 16), PHASES)
    assert got == replace(SPACE, head_size=(32,))
    assert left_out == ["head_size=16"]


def test_a_lost_precision_is_also_lost_to_the_head_it_was_offered_to():
    space = replace(SPACE, lm_head=SPACE.precisions)
    got, _ = priceable(space, table(lost=lambda op: op.precision == "w4a8g32"), PHASES)
    assert got.lm_head == got.precisions == SPACE.precisions[:1]


def refused(space, lookup: Lookup, why_not=lambda op: None) -> list[str]:
    with pytest.raises(HwfitError) as caught:
        refuse_unpriced("--space mine.yaml", space, lookup, PHASES, "hwfit profile M --space mine.yaml", why_not)
    return caught.value.problems


def test_without_the_whole_models_width_there_is_nothing_to_derive():
    lookup = table(replace(SPACE, hidden=(64,)))
    assert priceable(SPACE, lookup, PHASES) == (SPACE, [])
    lines = refused(SPACE, lookup)
    assert any(line.startswith("--space mine.yaml: norm: norm: 4 of 6 shapes, m 1…16, k 96…128") for line in lines)
    assert any(line.startswith("--space mine.yaml: w32: ") and "down_proj" in line for line in lines), lines


def test_the_refusal_lists_precisions_layers_shapes_and_the_command():
    lines = refused(SPACE, table(lost=lambda op: op.precision == "w4a8g32" and op.k == 256))
    assert lines[0].startswith(f"--space mine.yaml: the table of device '{DEVICE}' cannot price 6 of ")
    assert lines[1].startswith("--space mine.yaml: w4a8g32: down_proj: 6 of ")
    assert "m 1…16, n 64…128, k 256: outside the" in lines[1]
    assert lines[-1] == "measure them with: hwfit profile M --space mine.yaml"


def test_what_no_kernel_runs_is_told_apart_from_what_can_be_measured():
    low = Precision.parse("w4a2g32")
    space = replace(SPACE, precisions=(*SPACE.precisions, low))

    def why_not(op: Op) -> str | None:
        return "no 2-bit activations" if op.precision == low.name else None

    lines = refused(space, table(), why_not)
    assert lines[1:] == [
        "--space mine.yaml: w4a2g32 is not to be measured here: no 2-bit activations; leave it out of the space"
    ]
    both = refused(space, table(lost=lambda op: op.kind == "swiglu" and op.k == 128), why_not)
    assert any(": swiglu: swiglu: 2 of " in line for line in both)
    assert both[-1].startswith("measure them with")
