"""A replayed table answers with its own seconds, under another name, and refuses the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from replayed import FACTS, GPU, make_table, seconds

from hwfit.errors import HwfitError
from hwfit.kernels.op import linear
from hwfit.lut_store.facts import facts_of
from hwfit.lut_store.table import Table
from hwfit.profiler.protocol import Rules
from hwfit.profiler.replay import Replay
from hwfit.profiler.run import profile
from hwfit.space import Space
from hwfit.subnet import ModelShape
from hwfit.workload import Workload

FAST = Rules(seconds=0.02, max_rounds=8, min_rounds=8)
SHAPE = ModelShape(hidden=512, heads=4, kv_heads=4, head_size=128, mlp=1024, blocks=2, vocab=2048)
SPACE = Space.default(SHAPE, ("w16a16", "w8a8"), "w16a16")


def test_profile_over_a_replay_repeats_the_table(tmp_path: Path):
    known = [linear(m, n, k, "w16a16") for m in (1, 128) for n in (512, 1024) for k in (512, 1024)]
    replay = Replay(make_table(tmp_path / "source", known), GPU)
    workload = Workload(batch=1, prompt=128)
    options = {"rules": FAST, "progress": False, "backend": replay, "identity": replay.identity}
    report = profile(SPACE, workload, "replay", tmp_path / "own", **options)
    frame = Table(tmp_path / "own").read(f"replay-{GPU}")
    rows = frame[frame["status"] == "OK"].to_dict("records")
    assert report.device == f"replay-{GPU}"
    assert len(rows) == report.measured > 0
    assert report.unsupported == report.planned - report.measured > 0
    for row in rows:
        assert row["p10"] == pytest.approx(seconds(linear(row["m"], row["n"], row["k"], row["precision"])), rel=1e-9)
    notes = set(frame[frame["status"] == "UNSUPPORTED"]["note"])
    assert notes == {f"the replayed table has no such cell of '{GPU}'"}
    assert facts_of(Table(tmp_path / "own"), f"replay-{GPU}") == FACTS


def test_a_table_without_anchors_is_refused(tmp_path: Path):
    from hwfit.profiler import anchor

    table = make_table(tmp_path, [])
    frame = table.read(GPU)
    stream = anchor.GPU_STREAM[0]
    assert ((frame["m"] == stream.m) & (frame["n"] == stream.n)).any()
    with pytest.MonkeyPatch.context() as patch:
        other = anchor.Ops({"few": ((linear(3, 3, 3, "w32"), 1),)}, linear(3, 3, 3, "w32"))
        patch.setattr(anchor, "OPS", {"cuda": other})
        patch.setattr("hwfit.profiler.replay.OPS", {"cuda": other})
        with pytest.raises(HwfitError, match=r"cannot be replayed, it lacks the anchors .*m=3"):
            Replay(table, GPU)


def test_what_is_not_there_is_not_built(tmp_path: Path):
    replay = Replay(make_table(tmp_path, []), GPU)
    with pytest.raises(HwfitError, match="no such cell"):
        replay.build(linear(7, 512, 512, "w16a16"), 1, 0)
