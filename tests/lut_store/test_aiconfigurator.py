"""Published GPU tables: each row lands on the cell that it describes, or is counted as left out."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from hwfit import packs
from hwfit.errors import HwfitError
from hwfit.kernels.op import Op, linear, sequences
from hwfit.lut_store import aiconfigurator
from hwfit.lut_store.aiconfigurator import import_aiconfigurator
from hwfit.lut_store.facts import facts_of
from hwfit.lut_store.resolve import resolve
from hwfit.lut_store.table import Table

GEMM = """framework,version,device,op_name,kernel_source,gemm_dtype,m,n,k,latency
TRTLLM,1.0,A100,gemm,plugin,int4_wo,16,64,128,0.5
TRTLLM,1.0,A100,gemm,plugin,sq,16,64,128,0.25
TRTLLM,1.0,A100,gemm,torch,fp8_block,16,64,128,0.3
"""
ATTENTION = (
    "batch_size,isl,num_heads,num_key_value_heads,head_dim,attn_dtype,kv_cache_dtype,step,latency,kernel_source\n"
)
PREFILL = ATTENTION + "2,128,32,8,64,float16,float16,0,1.5,flow\n2,128,32,8,64,fp8,fp8,0,1,flow\n"
DECODE = ATTENTION + "4,1,32,8,64,float16,float16,511,0.125,flow\n4,1,32,8,64,float16,float16,1,0.1,flow\n"
YAML = "gpu: {mem_bw: 2039000000000, float16_tc_flops: 312000000000000, mem_capacity: 85899345920}\n"


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "aic.whl"
    root = f"{aiconfigurator.ROOT}/data/a100_sxm/trtllm/1.0"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{aiconfigurator.ROOT}/a100_sxm.yaml", YAML)
        archive.writestr(f"{root}/gemm_perf.txt", GEMM)
        archive.writestr(f"{root}/context_attention_perf.txt", PREFILL)
        archive.writestr(f"{root}/generation_attention_perf.txt", DECODE)
    monkeypatch.setattr(aiconfigurator, "wheel", lambda pack, progress: path)
    return path


def test_rows_land_on_their_cells(pack: Path, tmp_path: Path) -> None:
    table = Table(tmp_path / "t")
    (done,) = import_aiconfigurator("a100-sxm", table)
    prefill = Op("attention", 256, 32, 8, head_size=64, context=128)
    decode = Op("attention", 4, 32, 8, head_size=64, context=512)
    assert sequences(prefill) == (2, 128)
    assert sequences(decode) == (4, 1)
    expected = {
        linear(16, 64, 128, "w4a16"): 5e-4,
        linear(16, 64, 128, "w8a8"): 2.5e-4,
        prefill: 1.5e-3,
        decode: 1.25e-4,
    }
    rows = table.read(done.device)
    found = {
        Op(*(row[c] for c in ("kind", "m", "n", "k", "precision", "head_size", "context"))): row["p10"]
        for row in rows.to_dict("records")
    }
    assert found == pytest.approx(expected)
    assert done.cells == 4
    assert sum(done.left_out.values()) == 3
    facts = facts_of(table, done.device)
    assert (facts.bandwidth, facts.multiprocessors, facts.flops(16)) == (2.039e12, 108, 3.12e14)


def test_importing_again_writes_nothing_twice(pack: Path, tmp_path: Path) -> None:
    table = Table(tmp_path / "t")
    import_aiconfigurator("a100-sxm", table)
    assert import_aiconfigurator("a100-sxm", table)[0].cells == 0
    assert len(table.parts()) == 1
    assert resolve(table, "a100-sxm") == "a100-sxm-trtllm-1.0"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"device": "a100"}, "did you mean a100-sxm"),
        ({"device": "a100-sxm", "framework": "trt"}, "--framework trt: .*trtllm"),
        ({"device": "a100-sxm", "version": "2.0"}, "--version 2.0: .*1.0"),
    ],
)
def test_unknown_names_are_refused(pack: Path, tmp_path: Path, arguments: dict[str, str], told: str) -> None:
    with pytest.raises(HwfitError, match=told):
        import_aiconfigurator(table=Table(tmp_path / "t"), **arguments)


def test_other_devices_are_never_borrowed_from(pack: Path, tmp_path: Path) -> None:
    table = Table(tmp_path / "t")
    import_aiconfigurator("a100-sxm", table)
    with pytest.raises(
        HwfitError, match=r"not in table.*a100-sxm-trtllm-1.0.*tables import aiconfigurator --device l40s"
    ):
        resolve(table, "l40s")


@pytest.mark.slow
def test_the_published_a100_table(tmp_path: Path) -> None:
    table = Table(tmp_path / "t")
    (done,) = import_aiconfigurator("a100-sxm", table, progress=False)
    rows = table.read(done.device)
    linears = rows[rows["kind"] == "linear"]
    assert linears["precision"].value_counts().to_dict() == {"w16a16": 9240, "w8a16": 6048, "w4a16": 6048, "w8a8": 6048}
    # the first GEMM of the file, by eye
    cell = linears.query("m == 8192 and n == 65536 and k == 4096 and precision == 'w8a16'")
    assert cell["p10"].item() == pytest.approx(16.763904571533203e-3)
    assert rows["backend"].unique().tolist() == [f"{packs.AICONFIGURATOR.requirement} trtllm 1.0.0"]
