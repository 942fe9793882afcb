"""Study: everything a search needs of one model, prepared once: ordered weights, text, the original's answers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hwfit.errors import HwfitError, nearest, raise_all
from hwfit.files import write_text
from hwfit.kernels.cuda_env import torch_problems
from hwfit.models.generate import SELF_GENERATED, generated
from hwfit.models.llama import load_config, load_shape, load_tokenizer, load_weights
from hwfit.models.text import pack_tokens, train_texts
from hwfit.search import parallel
from hwfit.search.forward import CPU
from hwfit.search.importance import Ordered, measure_importance, order_model
from hwfit.search.teacher import Targets, make_targets
from hwfit.space import Space

TRAIN_ON = ("cpu", "cuda")


@dataclass(frozen=True)
class StudySettings:
    """Sequences of `seq` tokens for weight steps and distillation, for architecture steps, and for calibration."""

    seq: int = 256
    train: int = 96
    validation: int = 24
    calibration: int = 32
    seed: int = 0


@dataclass(frozen=True)
class Study:
    """`train` and `validation` are disjoint and both come from train splits. All tensors live on `device`."""

    model: Path
    config: dict[str, Any]
    space: Space
    ordered: Ordered
    train: Targets
    validation: Targets
    dtype: torch.dtype
    device: torch.device = CPU


def prepare(
    model: Path,
    settings: StudySettings,
    cache_dir: Path,
    data: Path | str | None = None,
    progress: bool = True,
    device: torch.device = CPU,
) -> Study:
    """Read the model, order it by importance, and collect the original's answers (kept under `cache_dir`), on `device`.

    `data` is a file of the user's own training documents, a hub data set's id, or `self-generated`: what the original
    itself writes; by default the train splits of the offline pack. Raises `HwfitError` if there are too few tokens.
    """
    rows = settings.train + settings.validation
    if data == SELF_GENERATED:
        ids = parallel.in_turn(
            lambda: generated(model, rows, settings.seq, cache_dir, settings.seed, progress, device=device)
        )
    else:
        texts = train_texts(data, seed=settings.seed, progress=progress)
        ids = pack_tokens(texts, load_tokenizer(model), rows * settings.seq, settings.seq)
    return study_of(model, ids, settings, cache_dir, progress, device)


def study_of(
    model: Path,
    ids: Tensor,
    settings: StudySettings,
    cache_dir: Path,
    progress: bool = True,
    device: torch.device = CPU,
) -> Study:
    """`prepare` for token ids `[train + validation, seq]` that are there already; no tokenizer is needed."""
    config, shape = load_config(model), load_shape(model)
    weights = load_weights(model)
    weights = {name: weights.pop(name).to(device) for name in tuple(weights)}
    ids, rows = ids.to(device), settings.train + settings.validation
    importance = measure_importance(weights, config, ids[: settings.calibration], progress)
    ordered = order_model(weights, shape, importance, take=True)
    dtype = kept_dtype(cache_dir / "dtype.txt", device)
    targets = make_targets(ordered.weights, config, ids, dtype=dtype, cache=cache_dir, progress=progress)
    space = Space.default(shape)
    return Study(
        model,
        config,
        space,
        ordered,
        targets.take(slice(0, settings.train)),
        targets.take(slice(settings.train, rows)),
        dtype,
        device,
    )


def training_device(name: str | None) -> torch.device:
    """`cpu` or `cuda`; None is a GPU where there is one. Raises `HwfitError` if it is not to be had."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name not in TRAIN_ON:
        raise HwfitError(f"--train-on '{name}' is unknown; {nearest(name, TRAIN_ON)}")
    raise_all(torch_problems("--train-on") if name == "cuda" else [])
    return torch.device(name)


def kept_dtype(path: Path, device: torch.device) -> torch.dtype:
    """`fast_dtype` as the run found it when it began: a resumed run, and all its processes, compute in the same."""
    names = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.bfloat16)}

    def found() -> str:
        kept = path.read_text().strip() if path.exists() else ""
        if kept not in names:
            kept = str(fast_dtype(device)).removeprefix("torch.")
            write_text(path, kept)
        return kept

    return names[parallel.from_first(found)]


@cache
def fast_dtype(device: torch.device = CPU) -> torch.dtype:
    """bf16 on a GPU and where this processor multiplies it at least 1.5 times as fast as fp32, else fp32."""
    if device.type != "cpu":
        return torch.bfloat16
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.randn(256, 576).to(dtype), torch.randn(1536, 576).to(dtype)
        times = []
        for _ in range(8):
            start = time.perf_counter()
            torch.nn.functional.linear(a, b)
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times)
    return torch.bfloat16 if seconds[torch.bfloat16] * 1.5 < seconds[torch.float32] else torch.float32
