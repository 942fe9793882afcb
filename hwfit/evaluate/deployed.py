"""Deployed: a folder as a `Scorer` on the device that runs it, so that what is judged is what was timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwfit.deploy.bundle import WEIGHTS
from hwfit.deploy.folder import onnx_path
from hwfit.deploy.runtime import OnnxModel
from hwfit.errors import HwfitError
from hwfit.evaluate.scorer import Scorer
from hwfit.profiler.whole_models import open_model
from hwfit.workload import Workload

if TYPE_CHECKING:
    from hwfit.deploy.cuda_model import CudaModel

CONTEXT = 2048
"""Tokens of the longest document that is judged on a GPU."""


@dataclass(frozen=True)
class _Way:
    """`file(folder)`: the file that the answers depend on; `open(file, threads)`: what gives them."""

    file: Callable[[Path], Path]
    open: Callable[[Path, int], Scorer]


class CudaScorer:
    """A `CudaModel` as a `Scorer`, one sequence at a time."""

    def __init__(self, model: CudaModel):
        self.model, self.max_context = model, model.max_context
        self.prefill, self.decode = model.prefill, model.decode

    def all_logits(self, ids: np.ndarray, *, start: int = 0) -> np.ndarray:
        """int64 `ids[batch, seq]` -> f32 logits `[batch, seq - start, vocab]`."""
        rows = [self.model.all_logits(row[None], start).cpu().numpy() for row in np.asarray(ids, np.int64)]
        return np.concatenate(rows)


def answers_file(device: str, folder: Path) -> Path:
    """The file in a deployed folder that its answers depend on. Raises `HwfitError` if there is none."""
    return _WAYS[device].file(folder)


def open_scorer(device: str, path: Path, threads: int) -> Scorer:
    """The model of `answers_file`, ready to be asked; `threads` of a processor."""
    return _WAYS[device].open(path, threads)


def _weights(folder: Path) -> Path:
    path = folder / WEIGHTS
    if not path.is_file():
        raise HwfitError(f"{folder}: no {WEIGHTS} in it; give a folder that `hwfit search --device cuda` wrote")
    return path


def open_cuda(folder: Path, context: int = CONTEXT) -> CudaScorer:
    """A deployed folder on the GPU, with room for `context` tokens."""
    workload = Workload(prompt=context - 1, generate=1, context=context - 1)
    return CudaScorer(open_model("cuda", folder, workload))  # pyright: ignore[reportArgumentType]


_WAYS = {
    "cpu": _Way(onnx_path, lambda path, threads: OnnxModel(path, threads=threads)),
    "cuda": _Way(_weights, lambda path, threads: open_cuda(path.parent)),
}
