import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwfit.kernels.op import Op
from hwfit.lut_store.schema import OP_COLUMNS, SCHEMA, Measurement, RunInfo, to_arrow
from hwfit.precision import KNOWN, Precision

sizes = st.integers(0, 2**40)
seconds = st.none() | st.floats(1e-9, 1e3)
text = st.text(max_size=20)
ops = st.builds(
    Op,
    kind=st.sampled_from(["linear", "attention", "norm", "swiglu", "embed"]),
    m=sizes,
    n=sizes,
    k=sizes,
    precision=st.sampled_from(KNOWN),
    head_size=sizes,
    context=sizes,
)
measurements = st.builds(
    Measurement,
    op=ops,
    status=st.sampled_from(["OK", "UNSUPPORTED", "UNSTABLE"]),
    device=text,
    backend=text,
    kernel=text,
    run_id=text,
    measured_at=st.floats(0, 4e9),
    p10=seconds,
    p90=seconds,
    half_width=seconds,
    raw_p10=seconds,
    stream=seconds,
    pace_reference=seconds,
    samples=sizes,
    weight_bytes=sizes,
    note=text,
)


@given(st.lists(measurements, max_size=5))
def test_arrow_keeps_every_field(rows: list[Measurement]):
    arrow = to_arrow(rows)
    assert arrow.schema.equals(SCHEMA)
    assert [Measurement.from_row(row) for row in arrow.to_pylist()] == rows


def test_every_field_has_a_column_and_every_column_a_value():
    row = Measurement(op=Op("linear", 1, 8, 32, "w4a8g32"), status="OK", device="d", backend="b").to_row()
    assert set(row) == set(SCHEMA.names)


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("w32", (32, 32, 0, "float")),
        ("w8a8", (8, 8, 0, "symmetric")),
        ("w4a8g64", (4, 8, 64, "asymmetric")),
        ("w2a16g128", (2, 16, 128, "asymmetric")),
    ],
)
def test_bits_group_and_scheme_are_spelled_out(precision: str, expected: tuple):
    row = Measurement(op=Op("linear", 1, 8, 128, precision), status="OK", device="d", backend="b").to_row()
    assert (row["weight_bits"], row["act_bits"], row["group"], row["scheme"]) == expected
    assert Precision(*(v or None for v in expected[:3])).name == precision


def run(**changes) -> RunInfo:
    fields = {
        "run_id": "r1",
        "device": "cpu-x",
        "fingerprint": {"name": "X", "isa": ["avx2"]},
        "versions": {"onnxruntime": "1.32.0"},
        "commit": "abc",
        "load": 0.5,
        "started": 12.25,
    }
    return RunInfo(**{**fields, **changes})


def test_run_survives_json():
    assert RunInfo.from_json(run().to_json()) == run()
    with pytest.raises(KeyError):
        RunInfo.from_json("{}")


def test_hash_follows_what_makes_runs_repeat():
    assert run(run_id="r2", load=3.0, started=99.0).hash == run().hash
    assert run(versions={"onnxruntime": "1.33.0"}).hash != run().hash
    assert run(commit="abd").hash != run().hash
    assert json.loads(run().to_json())["hash"] == run().hash


def test_op_columns_are_the_fields_of_op():
    assert tuple(Op.__dataclass_fields__) == OP_COLUMNS
