"""Prepare: the questions that lm-eval asks, tokenised as it does, taken from its own tasks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import torch
from lm_eval.tasks import TaskManager, get_task_dict
from transformers import PreTrainedTokenizerBase

from hwfit.evaluate.lm_harness import OnnxLM, checked_folder
from hwfit.evaluate.requests import Requests
from hwfit.evaluate.tasks import TASKS
from hwfit.progress import track


def prepare_requests(
    tokenizer: PreTrainedTokenizerBase, tasks: Sequence[str], docs_per_task: int, progress: bool = True
) -> dict[str, Requests]:
    """The first `docs_per_task` documents of each task, the ones that `accuracy` scores. Raises as `accuracy` does."""
    folder = checked_folder(tasks, docs_per_task, progress)
    out = {}
    with track(len(tasks), "Questions", progress) as advance:
        with redirect_stderr(StringIO()):  # lm-eval and datasets draw bars of their own
            manager = TaskManager(include_path=str(folder), include_defaults=False)
            known: Any = get_task_dict(list(tasks), manager)
        for name in tasks:
            with redirect_stderr(StringIO()):
                out[name] = _requests(name, known[name], tokenizer, docs_per_task)
            advance(note=name)
    return out


def _requests(name: str, task: Any, tokenizer: PreTrainedTokenizerBase, documents: int) -> Requests:
    task.build_all_requests(limit=documents)
    asked = sorted(task.instances, key=lambda instance: (instance.doc_id, instance.idx))
    recorder = _Recorder(tokenizer)
    recorder.loglikelihood(asked, disable_tqdm=True)
    docs = {instance.doc_id: instance.doc for instance in asked}
    choices = [task.doc_to_choice(doc) for doc in docs.values()]
    rows = [(*context, *answer) for context, answer in recorder.seen]
    return Requests(
        metric=TASKS[name].metric,
        tokens=torch.tensor([token for row in rows for token in row]),
        length=torch.tensor([len(row) for row in rows]),
        count=torch.tensor([len(answer) for _, answer in recorder.seen]),
        choices=torch.tensor([len(texts) for texts in choices]),
        gold=torch.tensor([int(task.doc_to_target(doc)) for doc in docs.values()]),
        characters=torch.tensor([len(text) for texts in choices for text in texts]),
    )


class _Recorder(OnnxLM):
    """Answers nothing and keeps what it was asked."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        super().__init__(model=None, tokenizer=tokenizer, progress=False)  # pyright: ignore[reportArgumentType]
        self.seen: list[tuple[list[int], list[int]]] = []

    def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        self.seen += [(context, answer) for _, context, answer in requests]
        return [(0.0, False)] * len(requests)
