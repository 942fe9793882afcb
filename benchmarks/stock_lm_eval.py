"""Stock lm-eval: its own model class, loop and definitions as they are; only the documents are the pack's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from hwfit.evaluate.benchmarks import BENCHMARKS, stock_folder
from hwfit.evaluate.task_files import task_files
from hwfit.evaluate.task_result import TaskResult


def stock_samples(folder: Path, name: str, shots: int, ids: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """What lm-eval logs of each document of `ids` (indices by its own task name), in that order."""
    path = stock_folder() / BENCHMARKS[name].yaml
    with _hub(name):
        results: Any = simple_evaluate(
            model="hf",
            model_args={"pretrained": str(folder), "dtype": "float32"},
            batch_size=4,
            device="cpu",
            tasks=list(ids),
            task_manager=TaskManager(include_path=str(path if path.is_dir() else path.parent), include_defaults=False),
            samples={task: list(some) for task, some in ids.items()},
            num_fewshot=shots,
            bootstrap_iters=0,
        )
    return [s for task in ids for s in sorted(results["samples"][task], key=lambda s: s["doc_id"])]


def stock_answer(sample: Mapping[str, Any], metric: str) -> int:
    """The likeliest choice of a document, for `acc_norm` the likeliest a character."""
    likely = np.array([float(response[0]) for response in sample["filtered_resps"]])
    if metric == "acc_norm":
        likely /= [len(answer.removeprefix(" ")) for _, answer in sample["arguments"]]
    return int(likely.argmax())


def asked(result: TaskResult) -> dict[str, list[int]]:
    """The documents of a result: indices by lm-eval's task name."""
    found: dict[str, list[int]] = {}
    for document in result.documents:
        task, _, index = document.rpartition("/")
        found.setdefault(task, []).append(int(index))
    return found


@contextmanager
def _hub(name: str) -> Iterator[None]:
    """`datasets.load_dataset` gives the pack's documents for what the stock definitions of a benchmark ask the hub."""
    stock, known = stock_folder() / BENCHMARKS[name].yaml, {}
    for written in task_files(name, shots=1, progress=False).glob("[!_]*.yaml"):
        told = load_yaml(stock / written.name if stock.is_dir() else stock, resolve_func=False)
        ours = load_yaml(written, resolve_func=False)["dataset_kwargs"]["data_files"]
        known[told["dataset_path"], told.get("dataset_name")] = ours

    def load(path: str, name: str | None = None, **kwargs: Any) -> datasets.DatasetDict:
        splits = {split: Path(file).read_text(encoding="utf-8") for split, file in known[path, name].items()}
        rows = {split: [json.loads(line) for line in text.splitlines()] for split, text in splits.items()}
        return datasets.DatasetDict({split: datasets.Dataset.from_list(some) for split, some in rows.items()})

    original = datasets.load_dataset
    datasets.load_dataset = load
    try:
        yield
    finally:
        datasets.load_dataset = original
