"""Ask: a benchmark put to a model through lm-eval: its prompts, few-shot draws and metrics, our log likelihoods."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from hwfit.errors import HwfitError
from hwfit.evaluate.benchmarks import BENCHMARKS
from hwfit.evaluate.kept import kept
from hwfit.evaluate.lm_harness import OnnxLM
from hwfit.evaluate.scorer import Scorer, token_log_probs
from hwfit.evaluate.target import Target
from hwfit.evaluate.task_files import task_files
from hwfit.evaluate.task_result import TaskResult
from hwfit.models.llama import load_tokenizer
from hwfit.progress import track

FEWSHOT_SEED = 1234
"""lm-eval's own default."""


def ask(
    target: Target, name: str, shots: int, documents: int | None, data: str = "pack", progress: bool = True
) -> TaskResult:
    """`documents` of a benchmark (all of them for None, or if it has fewer), the same ones for every model.

    They are drawn with a fixed seed from the stock split, so the first n are a fair sample. Read back if the model was
    asked before. Raises `HwfitError` for data that cannot be had.
    """
    question = [name, shots, documents, data, lm_eval.__version__]

    def make() -> tuple[TaskResult, Any]:
        result = _ask(target, name, shots, documents, data, progress)
        return result, result.to_dict()

    return kept(target.key, name, question, TaskResult.from_dict, make)


def _ask(target: Target, name: str, shots: int, documents: int | None, data: str, progress: bool) -> TaskResult:
    known = load_tasks(name, task_files(name, shots, data, progress), data)
    sizes = {task: len(known[task].eval_docs) for task in sorted(known)}
    chosen = draw(sizes, documents)
    lm = TargetLM(target, BENCHMARKS[name].title, progress)
    for task in chosen:  # as `simple_evaluate`, which would also spend seconds on describing the machine
        if known[task].get_config("num_fewshot") != 0:
            known[task].set_config(key="num_fewshot", value=shots)
        known[task].set_fewshot_seed(seed=FEWSHOT_SEED)
    with _quiet():
        results: Any = evaluate(
            lm=lm,
            task_dict={task: known[task] for task in chosen},
            samples={task: ids for task, ids in chosen.items() if len(ids) < sizes[task]} or None,
            bootstrap_iters=0,
        )
    samples = [(task, s) for task in chosen for s in sorted(results["samples"][task], key=lambda s: s["doc_id"])]
    metric = BENCHMARKS[name].metric
    others = sorted({m for _, s in samples for m in s["metrics"]} - {metric})
    return TaskResult(
        task=name,
        metric=metric,
        shots=shots,
        documents=tuple(f"{task}/{s['doc_id']}" for task, s in samples),
        gold=tuple(gold(known[task], s["doc"]) for task, s in samples),
        answers=tuple(_answer(known[task], s, metric) for task, s in samples),
        floor=floor(known, chosen, BENCHMARKS[name].fixed),
        others={other: int(sum(s[other] for _, s in samples)) for other in others},
        cut=len({(r["task"], r["doc"]) for r in lm.cut}),
    )


def load_tasks(name: str, folder: Path, data: str) -> dict[str, Any]:
    """lm-eval's task objects of a benchmark by their own names. Raises `HwfitError` if the hub does not answer."""
    try:
        with _quiet():
            return dict(TaskManager(include_path=str(folder), include_defaults=False).load([name])["tasks"])
    except Exception as error:
        if data == "pack":
            raise
        raise HwfitError(
            f"--data hub: {name} cannot be fetched ({type(error).__name__}: {' '.join(str(error).split())[:200]}); "
            "--data pack needs no network"
        ) from error


def draw(sizes: Mapping[str, int], documents: int | None) -> dict[str, list[int]]:
    """Indices by task of `documents` drawn from all tasks together; more documents hold those of fewer."""
    every = [(task, i) for task, size in sizes.items() for i in range(size)]
    random.Random(0).shuffle(every)
    found: dict[str, list[int]] = {}
    for task, i in every[:documents]:
        found.setdefault(task, []).append(i)
    return {task: sorted(found[task]) for task in sorted(found)}


def floor(known: Mapping[str, Any], chosen: Mapping[str, Sequence[int]], fixed: bool) -> float:
    """What guessing gets on the documents chosen; see `TaskResult`. Frequencies are those of all documents."""
    every = {task: [t.eval_docs[i] for i in chosen[task]] for task, t in known.items() if task in chosen}
    uniform = float(np.mean([1 / len(known[task].doc_to_choice(doc)) for task, docs in every.items() for doc in docs]))
    if not fixed:
        return uniform
    counts = Counter(gold(t, doc) for t in known.values() for doc in t.eval_docs)
    return max(uniform, max(counts.values()) / sum(counts.values()))


def gold(task: Any, doc: Any) -> int:
    """The number of the right choice, as lm-eval's `process_results` finds it."""
    right = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    return int(right) if isinstance(right, int | float) else task.doc_to_choice(doc).index(right)


def _answer(task: Any, sample: Mapping[str, Any], metric: str) -> int:
    """The choice that lm-eval's metric takes: the likeliest, or the likeliest a character."""
    likely = np.array([float(response[0]) for response in sample["filtered_resps"]])
    if metric == "acc_norm":
        likely = likely / np.array([float(len(text)) for text in task.doc_to_choice(sample["doc"])])
    return int(likely.argmax())


class TargetLM(OnnxLM):
    """A `Target` as an lm-eval model. It is opened when the longest request is known; `cut` lists requests cut short.

    Requests go in the order of their tokens, so that a model that can keeps what one shares with the next.
    """

    def __init__(self, target: Target, title: str, progress: bool = True):
        super().__init__(None, load_tokenizer(target.folder), progress)  # pyright: ignore[reportArgumentType]
        self.target, self.title, self.max_length = target, title, target.max_context
        self.cut: list[dict[str, Any]] = []

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        self._asked = requests
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        rows = [(context + answer, len(answer)) for _, context, answer in requests]
        for (ids, _), instance in zip(rows, self._asked, strict=True):
            if len(ids) > self.max_length + 1:
                self.cut.append({"task": instance.task_name, "doc": instance.doc_id})
        rows = [(tuple(ids[-self.max_length - 1 :]), min(count, self.max_length)) for ids, count in rows]
        done: dict[tuple[tuple[int, ...], int], tuple[float, bool]] = {}
        model = _Last(self.target.scorer(max(len(ids) for ids, _ in rows)))
        ordered = sorted(set(rows))
        with redirect_stderr(self.bars), track(len(ordered), self.title, self.progress) as advance:
            for ids, count in ordered:
                log_probs, best = token_log_probs(model, list(ids), count)
                done[ids, count] = float(log_probs.sum()), bool(best.all())
                advance()
        return [done[row] for row in rows]


class _Last:
    """Gives the last logits again: answers of one token to one question differ only in what is looked up there."""

    def __init__(self, model: Scorer):
        self.model, self.asked, self.logits = model, None, np.empty(0)

    def all_logits(self, ids: np.ndarray, *, start: int = 0) -> np.ndarray:
        if self.asked != (asked := (ids.tobytes(), start)):
            self.logits = self.model.all_logits(ids, start=start)
            self.asked = asked
        return self.logits


@contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval and datasets log and draw bars of their own."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        logger.setLevel(level)
