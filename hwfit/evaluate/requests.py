"""Requests: lm-eval's multiple-choice questions as token ids in one plain file, to be scored where lm-eval is not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from hwfit.errors import HwfitError
from hwfit.files import parse_json, replacing

FIELDS = ("tokens", "length", "count", "choices", "gold", "characters")
SMALL = 1 << 16
"""Vocabularies up to this size are kept in two bytes a token."""


@dataclass(frozen=True)
class Requests:
    """One benchmark: `requests` candidate answers to `documents` questions, those of a document one after the other.

    A request is its question's tokens and the answer's, of which the last `count` are scored; `characters` is the
    length of the answer's text, by which `acc_norm` divides (as lm-eval does).
    """

    metric: Literal["acc", "acc_norm"]
    tokens: Tensor  # [all tokens] int64, the requests one after the other
    length: Tensor  # [requests]
    count: Tensor  # [requests]
    choices: Tensor  # [documents] requests of each document
    gold: Tensor  # [documents] which of its choices is right
    characters: Tensor  # [requests]

    def rows(self) -> list[list[int]]:
        """Token ids by request."""
        return [part.tolist() for part in self.tokens.split(self.length.tolist())]

    def outcomes(self, log_likelihood: Tensor) -> tuple[bool, ...]:
        """Whether each document's best choice is the right one, by the sum of log probabilities of each request."""
        score = log_likelihood.double().cpu()
        score = score / self.characters if self.metric == "acc_norm" else score
        best = [int(part.argmax()) for part in score.split(self.choices.tolist())]
        return tuple(b == g for b, g in zip(best, self.gold.tolist(), strict=True))


def save_requests(path: Path, tasks: Mapping[str, Requests]) -> None:
    tensors = {f"{name}.{field}": getattr(task, field) for name, task in tasks.items() for field in FIELDS}
    narrow = {
        n: t.to(torch.uint16 if n.endswith("tokens") and int(t.max()) < SMALL else torch.int32)
        for n, t in tensors.items()
    }
    with replacing(path) as temporary:
        metrics = json.dumps({name: task.metric for name, task in tasks.items()})
        safetensors.torch.save_file(narrow, temporary, metadata={"metrics": metrics})


def load_requests(path: Path) -> dict[str, Requests]:
    """What `save_requests` wrote. Raises `HwfitError` for a file that it did not write."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:  # pyright: ignore[reportAttributeAccessIssue]
            metrics = parse_json(file.metadata()["metrics"])
            return {
                name: Requests(metric, *(file.get_tensor(f"{name}.{field}").long() for field in FIELDS))
                for name, metric in metrics.items()
            }
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise HwfitError(
            f"{path}: no prepared requests ({type(error).__name__}: {error}); prepare them again"
        ) from error
