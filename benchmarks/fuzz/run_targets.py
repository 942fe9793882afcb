"""Targets of a run: what search, judging and deployment keep for themselves, and what comes with a model."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks.fuzz.forms import JSON, ONNX, PARQUET, SAFETENSORS, TEXT
from benchmarks.fuzz.target import CONFIG, OUT, SUBNET, Target
from hwfit.deploy.bundle import random_bundle
from hwfit.deploy.gguf_tokenizer import read_vocabulary
from hwfit.deploy.onnx_graph import write_onnx
from hwfit.deploy.origin import Origin
from hwfit.deploy.runtime import OnnxModel
from hwfit.evaluate.divergence import Divergence
from hwfit.evaluate.drift import Drift, Limits
from hwfit.evaluate.flips import Flips
from hwfit.evaluate.kept import read_kept, write_kept
from hwfit.evaluate.refusals import Refusals
from hwfit.evaluate.requests import Requests, load_requests, save_requests
from hwfit.evaluate.task_result import TaskResult
from hwfit.lut_store.importing import import_file
from hwfit.lut_store.table import Table
from hwfit.models.llama import load_tokenizer
from hwfit.models.text import read_texts
from hwfit.report.drift_file import read_drift
from hwfit.search.run import remembering
from hwfit.workload import PHASES

ANSWERS = TaskResult("piqa", "acc", 0, ("piqa/0", "piqa/1"), (0, 1), (1, 1), 0.5, {"acc_norm": 1}, 0)


def _write_tokenizer(folder: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({token: i for i, token in enumerate([*alphabet, "th"])}, [("t", "h")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "th", "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))


def _read_tokenizer(folder: Path) -> None:
    load_tokenizer(folder)("the")
    read_vocabulary(folder, {**CONFIG, "eos_token_id": 256}, 300)


def _write_drift(folder: Path) -> None:
    text = Divergence(10, 0.05, 0.5, 1.0, 0.9, 10.0, 10.5)
    drift = Drift("a", "b", Limits(), {"piqa": Flips("piqa", "acc", 0, 50, 2, 1, 0, 0.6, 0.58, False)})
    drift.domains, drift.refusals = {"law": text}, Refusals(20, 20, 3, 2, 0, 1, ("How?",), ("Why?",))
    (folder / "drift.json").write_text(json.dumps(drift.to_dict()))


def _write_answers(folder: Path) -> None:
    write_kept(folder / "k.json", "key", ANSWERS.to_dict())


def _read_answers(folder: Path) -> None:
    if found := read_kept(folder / "k.json", "key"):
        assert TaskResult.from_dict(found) == ANSWERS


def _measured(folder: Path) -> None:
    path = folder / OUT / "m.json"
    measure = remembering(lambda subnets: {name: dict.fromkeys(PHASES, 1e-3) for name in subnets}, path, "key")
    assert all(measure({"a": SUBNET})["a"][phase] + 1 for phase in PHASES)


def _write_requests(folder: Path) -> None:
    two = torch.tensor([2, 2])
    save_requests(
        folder / "r.safetensors", {"q": Requests("acc", torch.arange(4), two, two // 2, two[:1], two[:1], two)}
    )


def _write_origin(folder: Path) -> None:
    Origin("a", "a model", "somewhere", "MIT").save(folder)
    (folder / "hwfit.json").write_text(json.dumps({"name": "a"}))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")


CELLS = [{"m": m, "n": 64, "k": 64, "precision": "w8a8", "latency_ms": m * 0.1} for m in (1, 8)]

RUN_TARGETS: dict[str, Target] = {
    "tokenizer": Target(_write_tokenizer, _read_tokenizer, {"tokenizer.json": JSON, "tokenizer_config.json": JSON}),
    "graph": Target(
        lambda f: write_onnx(random_bundle(SUBNET, CONFIG), f / "g.onnx", 16),
        lambda f: OnnxModel(f / "g.onnx").prefill([1, 2]),
        {"g.onnx": ONNX},
    ),
    "drift": Target(_write_drift, lambda f: read_drift(f / "drift.json"), {"drift.json": JSON}),
    "answers": Target(_write_answers, _read_answers, {"k.json": JSON}, refuses=False),
    "measured": Target(_measured, _measured, {f"{OUT}/m.json": JSON}),
    "questions": Target(_write_requests, lambda f: load_requests(f / "r.safetensors"), {"*.safetensors": SAFETENSORS}),
    "origin": Target(_write_origin, Origin.of, {"*.json": JSON, "README.md": TEXT}, refuses=False),
    "import parquet": Target(
        lambda f: pd.DataFrame(CELLS).to_parquet(f / "i.parquet"),
        lambda f: import_file(f / "i.parquet", "fuzz", Table(f / OUT)),
        {"i.parquet": PARQUET},
    ),
    "text parquet": Target(
        lambda f: pd.DataFrame({"text": ["One.", "Two."]}).to_parquet(f / "t.parquet"),
        lambda f: read_texts(f / "t.parquet"),
        {"t.parquet": PARQUET},
    ),
}
