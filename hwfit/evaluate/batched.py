"""Batched: perplexity and accuracy of a torch model on the device that holds it, many sequences a call.

Sequences of one length are scored together and nothing is padded: kernels that round activations with one scale a
sequence would see the padding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from hwfit.evaluate.requests import Requests

Model = Callable[[Tensor], Tensor]
"""Token ids `[batch, seq]` -> logits `[batch, seq, vocab]`, each sequence on its own."""
BATCH_TOKENS = 4096


@torch.no_grad()
def row_losses(model: Model, tokens: Tensor, device: torch.device) -> list[float]:
    """Mean negative log likelihood, in nats a token, of each row of `tokens[n, seq]` but its first token."""
    losses = []
    for rows in tokens.split(max(1, BATCH_TOKENS // tokens.shape[1])):
        losses += (-_log_probs(model, rows.to(device)).mean(1)).tolist()
    return losses


@torch.no_grad()
def outcomes(model: Model, tasks: Mapping[str, Requests], device: torch.device) -> dict[str, tuple[bool, ...]]:
    """Whether each document of each task is answered rightly."""
    parts = {name: task.rows() for name, task in tasks.items()}
    counts = [c for task in tasks.values() for c in task.count.tolist()]
    likely = log_likelihoods(model, [row for rows in parts.values() for row in rows], counts, device)
    by_task = likely.split([len(rows) for rows in parts.values()])
    return {name: task.outcomes(part) for (name, task), part in zip(tasks.items(), by_task, strict=True)}


@torch.no_grad()
def log_likelihoods(model: Model, rows: Sequence[Sequence[int]], counts: Sequence[int], device: torch.device) -> Tensor:
    """Sum of the log probabilities of the last `counts[i]` tokens of each row: f64 `[rows]`, on the CPU."""
    out = torch.zeros(len(rows), dtype=torch.float64)
    waiting = []  # results stay on the device until all are asked for
    for same in _same_length(rows):
        ids = torch.tensor([rows[i] for i in same]).to(device)
        count = torch.tensor([counts[i] for i in same]).to(device)
        log_probs = _log_probs(model, ids).double()
        scored = torch.arange(ids.shape[1] - 1, device=device) >= ids.shape[1] - 1 - count[:, None]
        waiting.append((same, (log_probs * scored).sum(1)))
    for same, sums in waiting:
        out[torch.tensor(same)] = sums.cpu()
    return out


def _same_length(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Indices of rows of one length, in batches of `BATCH_TOKENS`; the longest first: they need most memory."""
    by_length = defaultdict(list)
    for i, row in enumerate(rows):
        by_length[len(row)].append(i)
    for length in sorted(by_length, reverse=True):
        step = max(1, BATCH_TOKENS // length)
        yield from (by_length[length][i : i + step] for i in range(0, len(by_length[length]), step))


def _log_probs(model: Model, ids: Tensor) -> Tensor:
    """Log probability of every token of `ids[batch, seq]` but the first: fp32 `[batch, seq - 1]`."""
    logits = model(ids[:, :-1]).float()
    return logits.gather(-1, ids[:, 1:, None])[..., 0] - logits.logsumexp(-1)
