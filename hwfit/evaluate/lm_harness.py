"""Accuracy on PIQA, ARC-Easy, HellaSwag and OpenBookQA by the LM Evaluation Harness, 0-shot, without network."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager
from transformers import PreTrainedTokenizerBase

from hwfit.errors import HwfitError, raise_all
from hwfit.evaluate.score import Score
from hwfit.evaluate.scorer import Scorer, token_log_probs
from hwfit.evaluate.tasks import JUDGED, TASKS, Metric, task_folder
from hwfit.progress import track


def accuracy(
    model: Scorer,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str] = JUDGED,
    docs_per_task: int = 40,
    progress: bool = True,
) -> dict[str, Score]:
    """Score by task name on the same `docs_per_task` validation documents every time.

    PIQA and ARC-Easy by `acc`, HellaSwag and OpenBookQA by `acc_norm` (log likelihood a character). Raises
    `HwfitError` for an unknown task or more documents than a task has.
    """
    folder = checked_folder(tasks, docs_per_task, progress)
    lm = OnnxLM(model, tokenizer, progress)
    with redirect_stderr(StringIO()):  # lm-eval and datasets draw bars of their own
        results: Any = simple_evaluate(
            model=lm,
            tasks=list(tasks),
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            limit=docs_per_task,
            bootstrap_iters=0,
        )
    return {name: _score(TASKS[name].metric, results["samples"][name]) for name in tasks}


def checked_folder(tasks: Sequence[str], docs_per_task: int, progress: bool = True) -> Path:
    """The folder of the tasks' YAML files. Raises `HwfitError` as `accuracy` does."""
    folder = task_folder(tuple(tasks), progress)
    raise_all(
        [
            f"task '{name}': {docs_per_task} documents asked for; allowed: 1 to {TASKS[name].documents}"
            for name in tasks
            if not 1 <= docs_per_task <= TASKS[name].documents
        ]
    )
    return folder


class OnnxLM(TemplateLM):
    """A `Scorer` as an lm-eval model for log likelihoods; the LM head runs on the continuation only."""

    def __init__(self, model: Scorer, tokenizer: PreTrainedTokenizerBase, progress: bool = True):
        super().__init__()
        self.model, self.tokenizer, self.progress, self.bars = model, tokenizer, progress, sys.stderr
        self.max_length = getattr(model, "max_context", 2048)

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id  # pyright: ignore[reportReturnType]

    @property
    def prefix_token_id(self) -> int:
        """As lm-eval's own Hugging Face model: BOS where there is one."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos  # pyright: ignore[reportReturnType]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self.tokenizer.encode(string, add_special_tokens=bool(add_special_tokens))

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """(sum of log probabilities, all greedy) of each continuation; a context too long loses its beginning."""
        done: dict[int, tuple[float, bool]] = {}
        longest_first = sorted(range(len(requests)), key=lambda i: -len(requests[i][1]) - len(requests[i][2]))
        with redirect_stderr(self.bars), track(len(requests), "accuracy", self.progress) as advance:
            for i in longest_first:
                _, context, continuation = requests[i]
                ids = (context + continuation)[-self.max_length - 1 :]
                log_probs, greedy = token_log_probs(self.model, ids, min(len(continuation), len(ids) - 1))
                done[i] = float(log_probs.sum()), bool(greedy.all())
                advance()
        return [done[i] for i in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        raise HwfitError("lm-eval: rolling log likelihoods are not offered; use hwfit.evaluate.perplexity")

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        raise HwfitError(f"lm-eval: tasks that generate text are not offered; allowed: {', '.join(TASKS)}")


def _score(metric: Metric, samples: list[dict[str, Any]]) -> Score:
    outcomes = tuple(bool(sample[metric]) for sample in sorted(samples, key=lambda sample: sample["doc_id"]))
    n = len(outcomes)
    value = sum(outcomes) / n
    return Score(metric, value, math.sqrt(value * (1 - value) / max(n - 1, 1)), n, outcomes)
