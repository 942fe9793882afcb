"""The log of losses: whole lines survive any kill, foreign ones are not believed, damaged ones are named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from killed_strategy import replayed, searched
from search_llama import tiny_space

from hwfit.errors import HwfitError
from hwfit.search.discretise import Picked
from hwfit.search.strategies.base import Scored
from hwfit.search.strategies.losses import Losses

SPACE = tiny_space("w32", "w8a8", "w4a8")
PICKS = [Picked(1, 0, 1, 2, 1, ((i,) * 7, (2,) * 7, (0,) * 7), 1) for i in range(3)]


def filled(path: Path, key: str = "k") -> dict[Picked, float]:
    log = Losses(path, key, SPACE)
    for i, picked in enumerate(PICKS):
        log.add(picked, Scored(0.1 + i, {"decode": 1e-3}))
    return log.known


def test_what_was_added_is_known_again(tmp_path: Path):
    path = tmp_path / "deep" / "losses.jsonl"
    want = filled(path)
    assert Losses(path, "k", SPACE).known == want == {p: 0.1 + i for i, p in enumerate(PICKS)}
    assert json.loads(path.read_text().splitlines()[1])["costs"] == {"decode": 1e-3}


@pytest.mark.parametrize("cut", [1, 40])
def test_a_line_cut_off_is_dropped_and_the_next_one_is_whole(tmp_path: Path, cut: int):
    path = tmp_path / "losses.jsonl"
    filled(path)
    os.truncate(path, path.stat().st_size - cut)
    log = Losses(path, "k", SPACE)
    assert list(log.known) == PICKS[:2]
    log.add(PICKS[2], Scored(7.0, {}))
    assert Losses(path, "k", SPACE).known == {PICKS[0]: 0.1, PICKS[1]: 1.1, PICKS[2]: 7.0}


def test_another_key_or_space_starts_anew(tmp_path: Path):
    path = tmp_path / "losses.jsonl"
    filled(path)
    assert not Losses(path, "other", SPACE).known
    filled(path)
    assert not Losses(path, "k", tiny_space("w32", "w4a8")).known


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[1]",
        json.dumps({"loss": 1.0}),
        json.dumps({"loss": "NaN", "picked": json.loads("{}")}),
        json.dumps({"loss": 1.0, "picked": {"hidden": 9}}),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str):
    path = tmp_path / "losses.jsonl"
    filled(path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[3:]]) + "\n")
    with pytest.raises(HwfitError, match=r"losses.jsonl, line 3: damaged .*delete the file"):
        Losses(path, "k", SPACE)


def test_picks_outside_the_space_are_refused(tmp_path: Path):
    path = tmp_path / "losses.jsonl"
    filled(path)
    path.write_text(path.read_text().replace('"hidden": 1', '"hidden": 2'))
    with pytest.raises(HwfitError, match="not a pick of this space"):
        Losses(path, "k", SPACE)


@pytest.mark.slow
def test_kill_minus_nine_costs_one_evaluation(tmp_path: Path):
    script = Path(__file__).with_name("killed_strategy.py")
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(script.parent), os.environ.get("PYTHONPATH", "")])
    killed, undisturbed = tmp_path / "killed.jsonl", tmp_path / "whole.jsonl"
    command = [sys.executable, str(script), str(killed)]
    assert subprocess.run(command, env={**os.environ, "PYTHONPATH": path}).returncode == -9
    assert len(killed.read_text().splitlines()) == 3
    assert searched(killed, replayed()) == searched(undisturbed, replayed())
    assert killed.read_text() == undisturbed.read_text()
