from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from hwfit import packs
from hwfit.errors import HwfitError

CONTENT = b"a wheel"
PACK = packs.Pack("some-pack", "1.0", hashlib.sha256(CONTENT).hexdigest(), 1, "none", "do without")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "hwfit" / "packs"


def downloads(monkeypatch: pytest.MonkeyPatch, content: bytes) -> list[packs.Pack]:
    calls = []

    def download(pack: packs.Pack, folder: Path, progress: bool) -> None:
        calls.append(pack)
        (folder / pack.file_name).write_bytes(content)

    monkeypatch.setattr(packs, "_download", download)
    return calls


def test_downloads_once_and_keeps_the_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = downloads(monkeypatch, CONTENT)
    first, second = packs.wheel(PACK), packs.wheel(PACK)
    assert first == second == cache / "some_pack-1.0-py3-none-any.whl"
    assert first.read_bytes() == CONTENT
    assert len(calls) == 1
    assert [path.name for path in cache.iterdir()] == [first.name]


def test_a_damaged_file_is_fetched_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = downloads(monkeypatch, CONTENT)
    packs.wheel(PACK).write_bytes(CONTENT[:3])
    assert packs.wheel(PACK).read_bytes() == CONTENT
    assert len(calls) == 2


def test_another_file_than_the_pinned_one_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads(monkeypatch, b"something else")
    with pytest.raises(HwfitError, match=r"some-pack==1\.0.*not the pinned file"):
        packs.wheel(PACK)
    assert list(cache.iterdir()) == []


def test_pip_failure_says_what_pip_said(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real pip, told to look nowhere."""
    for variable in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(HwfitError, match=r"some-pack==1\.0: pip could not download it \(ERROR: No.*, or do without"):
        packs.wheel(PACK, progress=False)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(HwfitError, match="set XDG_CACHE_HOME"):
        packs.wheel(PACK)
