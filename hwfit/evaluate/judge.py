"""Judge: perplexity and accuracy of deployed folders, kept beside each so that a rerun does not repeat them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from hwfit.errors import HwfitError
from hwfit.evaluate.deployed import answers_file, open_scorer
from hwfit.evaluate.kept import read_kept, write_kept
from hwfit.evaluate.perplexity import Perplexity, perplexity
from hwfit.evaluate.score import Score
from hwfit.evaluate.tasks import JUDGED
from hwfit.models.llama import load_tokenizer
from hwfit.models.text import heldout_texts, pack_tokens
from hwfit.packs import sha256

FILE = "quality.json"


@dataclass(frozen=True)
class Exam:
    """`rows` held-out sequences of `seq` tokens for perplexity, `documents` a task for accuracy."""

    rows: int = 24
    seq: int = 256
    documents: int = 40
    tasks: tuple[str, ...] = JUDGED

    def check(self) -> None:
        problems = [
            f"--{name} {value} must be at least {least}"
            for name, value, least in (("rows", self.rows, 1), ("documents", self.documents, 1))
            if value < least
        ]
        if problems:
            raise HwfitError(problems)


@dataclass(frozen=True)
class Quality:
    """What a deployed model is worth on documents that neither search nor distillation saw."""

    perplexity: Perplexity
    accuracy: dict[str, Score]


def heldout_tokens(model: Path, exam: Exam, text: Path | None = None, progress: bool = True) -> Tensor:
    """`[rows, seq]` tokens of held-out documents; `text` is a file of the user's own."""
    tokens = pack_tokens(heldout_texts(text, progress=progress), load_tokenizer(model), exam.rows * exam.seq, exam.seq)
    if len(tokens) < exam.rows:
        raise HwfitError(f"held-out text holds {len(tokens)} sequences of {exam.seq} tokens, {exam.rows} are needed")
    return tokens


def judge(
    folder: Path, exam: Exam, tokens: Tensor, threads: int = 2, progress: bool = True, device: str = "cpu"
) -> Quality:
    """Quality of the deployed model in `folder` (its tokenizer beside it), read back if it was judged before."""
    exam.check()
    path = answers_file(device, folder)
    weights = path.with_name(f"{path.name}.data")  # of a large graph
    held = sha256(weights).encode() if weights.exists() else b""
    key = hashlib.sha256(path.read_bytes() + held + repr(exam).encode() + tokens.numpy().tobytes()).hexdigest()
    if raw := read_kept(path.parent / FILE, key):
        scores = {t: Score(**{**s, "per_document": tuple(s["per_document"])}) for t, s in raw["accuracy"].items()}
        return Quality(Perplexity(**raw["perplexity"]), scores)
    from hwfit.evaluate.lm_harness import accuracy  # lm-eval takes seconds to load, and only judging needs it

    model = open_scorer(device, path, threads)
    quality = Quality(
        perplexity(model, tokens, progress=progress),
        accuracy(model, load_tokenizer(path.parent), exam.tasks, exam.documents, progress),
    )
    write_kept(path.parent / FILE, key, asdict(quality))
    return quality


def judge_all(
    folders: Mapping[str, Path],
    exam: Exam,
    tokens: Tensor,
    threads: int = 2,
    progress: bool = True,
    device: str = "cpu",
) -> dict[str, Quality]:
    """`judge` for each folder in turn."""
    return {name: judge(folder, exam, tokens, threads, progress, device) for name, folder in folders.items()}
