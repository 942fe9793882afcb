"""Staging: a folder that appears whole or not at all, and never in the place of somebody else's files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hwfit.errors import HwfitError

MARK = "export.json"
"""What an exported folder has, and what a folder must have to be replaced by one."""
BUNDLE = "subnet.json"


def refuse_foreign(folder: Path, flag: str = "--out") -> None:
    """Raises `HwfitError` if `folder` is a file, or holds something that no export put there."""
    if folder.exists() and not folder.is_dir():
        raise HwfitError(f"{flag} {folder}: is a file; give a new or an empty folder")
    if folder.is_dir() and any(folder.iterdir()) and ((folder / BUNDLE).exists() or not (folder / MARK).is_file()):
        what = "a searched subnet" if (folder / BUNDLE).exists() else f"files that are no export of hwfit (no {MARK})"
        raise HwfitError(f"{flag} {folder}: holds {what}; give a new or an empty folder, such as {folder / 'export'}")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder that takes the place of `folder` when the block ends well, and is removed otherwise.

    An earlier export there is replaced. Raises `HwfitError` as `refuse_foreign` does.
    """
    refuse_foreign(folder)
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        made = Path(scratch) / "new"
        made.mkdir()
        yield made
        _to_disk(made)
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        made.rename(folder)


@contextmanager
def whole_files(folder: Path, last: str) -> Iterator[Path]:
    """Yields an empty folder whose files are moved into `folder` when the block ends well; the one called `last` comes
    last, and an older one of that name goes first, so that it never stands beside files it does not belong to."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export.") as scratch:
        made = Path(scratch)
        yield made
        _to_disk(made)
        (folder / last).unlink(missing_ok=True)
        for file in sorted(made.iterdir(), key=lambda f: f.name == last):
            os.replace(file, folder / file.name)


def _to_disk(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def copy_into(files: list[Path], folder: Path) -> None:
    """Copies files, but none onto itself."""
    for file in files:
        if file.parent.resolve() != folder.resolve():
            shutil.copyfile(file, folder / file.name)
