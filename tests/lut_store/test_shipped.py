"""Tables that come with the package: readable, small, of known origin; and how one is condensed."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwfit.errors import HwfitError
from hwfit.kernels.op import linear
from hwfit.latency_models.load import load_latency
from hwfit.lut_store.schema import Measurement, RunInfo
from hwfit.lut_store.shipped import SHIPPED, condense, open_table, shipped_folder
from hwfit.lut_store.table import Table
from hwfit.models.llama import ModelShape
from hwfit.space import Space
from hwfit.subnet import Subnet
from hwfit.workload import Workload

SMOLLM2 = ModelShape(hidden=576, heads=9, kv_heads=3, head_size=64, mlp=1536, blocks=30, vocab=49152)


def test_what_is_shipped_prices_every_subnet_of_the_demo_model_and_says_where_it_is_from():
    table = open_table(SHIPPED)
    assert sum(f.stat().st_size for f in shipped_folder().rglob("*") if f.is_file()) <= 5_000_000
    for device in table.devices():
        frame = table.read(device)
        times = frame[frame["status"] == "OK"]
        assert (times["p10"] > 0).all()
        assert len(times) >= 100
        runs = {run.run_id: run for run in table.runs()}
        for run_id in set(frame["run_id"]):
            assert runs[run_id].device == device
            assert runs[run_id].fingerprint["name"]
            assert "onnxruntime" in runs[run_id].versions or "torch" in runs[run_id].versions
        if device.startswith("cpu"):
            latency, space = load_latency(device, SHIPPED), Space.default(SMOLLM2)
            whole = [
                latency.predict(Subnet.whole(SMOLLM2, p, space.embed), Workload().decode) for p in space.precisions
            ]
            assert all(1e-3 < e.low <= e.value <= e.high < 1 for e in whole)
    assert table.devices()


def test_it_cannot_be_written_to(tmp_path: Path):
    with pytest.raises(HwfitError, match="read-only"):
        open_table(SHIPPED).prepare()
    open_table(tmp_path).prepare()


def test_condensing_keeps_the_latest_of_every_cell_and_its_run(tmp_path: Path):
    source, target = Table(tmp_path / "from"), Table(tmp_path / "to")
    about = {"status": "OK", "device": "cpu-x", "backend": "b", "measured_at": 1.0}
    for number, value in ((1, 1e-3), (2, 2e-3)):
        run = RunInfo(
            run_id=f"r{number}", device="cpu-x", fingerprint={"name": "X"}, versions={}, commit="c", load=0.0,
            started=float(number),
        )  # fmt: skip
        about |= {"run_id": run.run_id, "measured_at": float(number)}
        cells = [Measurement(op=linear(1, 64, 64, "w32"), p10=value, **about)]
        if number == 1:
            cells.append(Measurement(op=linear(1, 64, 128, "w32"), p10=value, **about))
        for cell in cells:
            source.append([cell], run)
    assert len(condense(source, target)) == 2
    assert target.read().equals(source.read())
    assert [run.run_id for run in target.runs()] == ["r1", "r2"]
