"""Teacher: the original model's next-token distributions, computed once and kept as its top tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from hwfit.errors import HwfitError
from hwfit.files import replacing
from hwfit.progress import track
from hwfit.search import parallel
from hwfit.search.forward import Attention, plain_forward
from hwfit.subnet import ModelShape


@dataclass(frozen=True)
class Targets:
    """`ids[n, seq]` and, for each position, the teacher's `top` most likely next tokens and their log-probabilities."""

    ids: Tensor
    index: Tensor  # [n, seq, top] int64
    logprob: Tensor  # [n, seq, top]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Tensor | slice) -> Targets:
        rows = rows if isinstance(rows, slice) else rows.to(self.ids.device)
        return Targets(self.ids[rows], self.index[rows], self.logprob[rows])


@torch.no_grad()
def make_targets(
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    ids: Tensor,
    top: int = 64,
    dtype: torch.dtype = torch.float32,
    cache: Path | None = None,
    progress: bool = True,
) -> Targets:
    """Run the original over `ids[n, seq]` on the device that holds both.

    With `cache`, finished sequences survive a kill and are not run again, and processes share the work.
    """
    shape = ModelShape.from_config(config)
    attention = Attention.of(shape.heads, shape.kv_heads, shape.head_size, config)
    cast = {name: w.to(dtype) for name, w in weights.items()}
    digest = hashlib.sha256(ids.cpu().numpy().tobytes() + str((top, dtype)).encode()).hexdigest()[:16]
    chunk = 8
    parts = []

    def answers(start: int) -> dict[str, Tensor]:
        path = cache / f"teacher-{digest}-{start}.safetensors" if cache else None
        if path and (kept := _kept(path, ids.device)):
            return kept
        rows = ids[start : start + chunk]
        hidden = plain_forward(rows, cast, attention, shape.blocks, float(config["rms_norm_eps"]))
        logits = F.linear(hidden, cast["lm_head.weight"]).float()
        logprob, index = logits.log_softmax(-1).topk(min(top, shape.vocab), -1)
        part = {"index": index.int(), "logprob": logprob.contiguous()}
        if path:
            with replacing(path) as temporary:
                safetensors.torch.save_file({n: t.cpu() for n, t in part.items()}, temporary)
        return part

    starts = range(0, len(ids), chunk)
    with track(len(ids), "Original model's answers", progress) as advance:
        if cache and parallel.ranks() > 1:
            for start in starts[parallel.rank() :: parallel.ranks()]:
                answers(start)
                advance(chunk)
            parallel.wait()
        for start in starts:
            parts.append(answers(start))
            advance(len(ids[start : start + chunk]) if parallel.ranks() == 1 else 0)
    return Targets(ids, torch.cat([p["index"] for p in parts]).long(), torch.cat([p["logprob"] for p in parts]))


def _kept(path: Path, device: torch.device) -> dict[str, Tensor] | None:
    """Answers that an earlier run wrote. Raises `HwfitError` for a damaged file."""
    if not path.exists():
        return None
    try:
        part = safetensors.torch.load_file(path, str(device))
        return {name: part[name] for name in ("index", "logprob")}
    except (SafetensorError, KeyError, OSError) as error:
        raise HwfitError(f"{path}: damaged answers of the original ({error}); delete it to ask again") from error


def distillation_loss(logits: Tensor, targets: Targets) -> Tensor:
    """Mean KL(teacher || student) in nats over the teacher's top tokens plus one bucket for all others.

    `logits[n, seq, vocab]`. Equal to the full KL up to what the teacher does inside its tail.
    """
    wide = logits.float()
    log_q = wide.gather(-1, targets.index) - wide.logsumexp(-1, keepdim=True)  # [n, seq, top]
    log_p = targets.logprob.float()
    p = log_p.exp()
    rest_p = (1 - p.sum(-1)).clamp_min(1e-6)
    rest_q = (1 - log_q.exp().sum(-1)).clamp_min(1e-6)
    return ((p * (log_p - log_q)).sum(-1) + rest_p * (rest_p.log() - rest_q.log())).mean()
