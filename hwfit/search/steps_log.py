"""Steps on disk: one CSV row a step under the run's `logs/`, and the same to TensorBoard where it is asked for."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hwfit.errors import HwfitError
from hwfit.files import write_text
from hwfit.search import parallel


class StepsLog:
    """Rows of one stage. A resumed stage drops the rows after its checkpoint and goes on below the others.

    `checkpoint` is the stage's checkpoint file, `run/checkpoints/x.safetensors`; the rows go to `run/logs/x.csv`.
    Only the first process writes.
    """

    def __init__(self, checkpoint: Path | None, done: int, tensorboard: bool = False):
        self._file = self._board = None
        self._last = time.monotonic()
        if checkpoint is None or not parallel.first():
            return
        self.path = checkpoint.parent.parent / "logs" / f"{checkpoint.stem}.csv"
        self._columns = _keep(self.path, done)
        self._file = open(self.path, "a", newline="", encoding="utf-8")  # noqa: SIM115 (closed by `close`)
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.path.parent / "tensorboard" / checkpoint.stem), purge_step=done)

    def row(self, step: int, tokens: int, values: Mapping[str, float]) -> None:
        """Adds `step`, `values` and tokens a second since the row before; on disk when it returns."""
        now = time.monotonic()
        speed = tokens / max(1e-9, now - self._last)
        self._last = now
        if self._file is None:
            return
        record = {"step": step, **values, "tokens_per_s": round(speed, 1)}
        writer = csv.DictWriter(self._file, self._columns or list(record), extrasaction="ignore")
        if not self._columns:
            self._columns = list(record)
            writer.writeheader()
        writer.writerow(record)
        self._file.flush()
        if self._board is not None:
            for name, value in record.items():
                if name != "step":
                    self._board.add_scalar(name, value, step)

    def close(self) -> None:
        for target in (self._file, self._board):
            if target is not None:
                target.close()

    def __enter__(self) -> StepsLog:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


def tensorboard_problems(wanted: bool) -> list[str]:
    """Why `--tensorboard` cannot be had; empty if it can or is not wanted."""
    if not wanted or find_spec("tensorboard"):
        return []
    return ["--tensorboard needs the package tensorboard: pip install 'hwfit[tensorboard]'; logs/*.csv need nothing"]


def read_steps(path: Path) -> list[dict[str, float]]:
    """The rows of a log. Raises `HwfitError` for a damaged file."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError) as error:
        raise HwfitError(f"{path}: cannot be read as a log of steps ({error}); delete it to start it again") from error


def _keep(path: Path, done: int) -> list[str]:
    """Drop the rows of steps from `done` on, and a half-written last one; returns the columns, if any are left."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines[1:] if line.endswith("\n") and line.split(",")[0].isdigit()]
    kept = [line for line in kept if int(line.split(",")[0]) < done]
    text = "".join([lines[0], *kept]) if kept else ""
    write_text(path, text)
    return lines[0].strip().split(",") if kept else []
