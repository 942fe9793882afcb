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

WENT_BACK = "went_back"


class StepsLog:
    """Rows of one stage. A resumed stage drops the rows after its checkpoint and goes on below the others.

    `checkpoint` is the stage's checkpoint file, `run/checkpoints/x.safetensors`; the rows go to `run/logs/x.csv`.
    Only the first process writes. A stage that went back logs how often in the column `went_back`: rows of an earlier
    try stay.
    """

    def __init__(self, checkpoint: Path | None, done: int, tensorboard: bool = False, went_back: int = 0):
        self._file = self._board = None
        self._last = time.monotonic()
        if checkpoint is None or not parallel.first():
            return
        self.path = checkpoint.parent.parent / "logs" / f"{checkpoint.stem}.csv"
        self._columns = _keep(self.path, done, went_back)
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


def _keep(path: Path, done: int, went_back: int) -> list[str]:
    """Drop the rows of steps from `done` on, unless of an earlier try, and a half-written last one; returns the
    columns, if any are left."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    columns = lines[0].strip().split(",") if lines else []
    tries = columns.index(WENT_BACK) if WENT_BACK in columns else None

    def stays(line: str) -> bool:
        values = line.rstrip("\n").split(",")
        if not line.endswith("\n") or len(values) != len(columns) or not values[0].isdigit():
            return False
        mine = int(values[tries]) if tries is not None and values[tries].isdigit() else 0
        return mine < went_back or (mine == went_back and int(values[0]) < done)

    kept = [line for line in lines[1:] if stays(line)]
    write_text(path, "".join([lines[0], *kept]) if kept else "")
    return columns if kept else []
