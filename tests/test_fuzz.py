"""Every reader reads or refuses what the fuzzer makes of its files; and the fuzzer sees what it looks for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks.fuzz import harness
from benchmarks.fuzz.targets import TARGETS, Target
from hwfit.errors import HwfitError


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    outcome = harness.fuzz(name, tmp_path, seconds=5.0, most=20)
    assert not outcome.crashes, {kind: Path(at).read_text() for kind, at in outcome.first.items()}
    assert (outcome.refused > 0) == TARGETS[name].refuses


def _careless(folder: Path) -> None:
    raise KeyError("subnet") if "" in (folder / "s.json").read_text(errors="replace") else AssertionError


def _littering(folder: Path) -> None:
    (Path.cwd() / "litter").touch()
    raise HwfitError("refused")


@pytest.mark.parametrize(("reader", "kind"), [(_careless, "KeyError"), (_littering, "wrote cwd/litter")])
def test_a_careless_reader_is_found_out(reader, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = TARGETS["subnet"]
    first = [True]

    def read(folder: Path) -> object:
        return sound.read(folder) if first and first.pop() else reader(folder)

    here = Path.cwd()
    monkeypatch.setitem(TARGETS, "subnet", dataclasses.replace(sound, read=read))
    outcome = harness.fuzz("subnet", tmp_path, seconds=5.0, most=10)
    assert outcome.crashed > 0
    assert any(found.startswith(kind) for found in outcome.crashes)
    assert all(kind in Path(at).read_text() for found, at in outcome.first.items() if found.startswith(kind))
    assert Path.cwd() == here


def test_every_target_damages_files_that_it_writes(tmp_path: Path) -> None:
    for i, target in enumerate(TARGETS.values()):
        folder = tmp_path / str(i)
        folder.mkdir()
        assert isinstance(target, Target)
        target.write(folder)
        assert all(list(folder.glob(pattern)) for pattern in target.forms)
