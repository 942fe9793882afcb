"""Benchmarks: the paper's seven, each with its stock lm-eval definition, its shots, its metric and its documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from hwfit.errors import HwfitError, nearest, raise_all
from hwfit.evaluate import pack_documents as pack
from hwfit.evaluate.tasks import Metric

PIQA = ("goal", "sol1", "sol2", "label")
HELLASWAG = ("ind", "activity_label", "ctx_a", "ctx_b", "endings", "label")
WINOGRANDE = ("sentence", "option1", "option2", "answer")
MMLU = ("question", "choices", "answer")
Documents = Callable[[ZipFile], Iterator[dict[str, Any]]]


@dataclass(frozen=True)
class Benchmark:
    """`yaml` is the stock definition below lm-eval's tasks; `shots` what the paper gives; `metric` what is quoted.

    `splits` reads the documents of each stock split out of the pack, in stock order and with stock columns; empty for
    MMLU, which is `subjects` of its own. `fixed` says that the choices are the same words in every document, so that
    a model that always answers the same can beat 1 / choices.
    """

    title: str
    yaml: str
    shots: int
    metric: Metric = "acc"
    splits: Mapping[str, Documents] | None = None
    evaluated: str = "validation"
    fixed: bool = False
    differs: str = ""

    @property
    def grouped(self) -> bool:
        """Many tasks of lm-eval under one name."""
        return self.splits is None


def _arc(name: str) -> dict[str, Documents]:
    return {
        "train": partial(pack.arc, f"{name}/train"),
        "test": partial(pack.arc, f"{name}/test"),
    }


BENCHMARKS = {
    "boolq": Benchmark(
        "BoolQ",
        "super_glue/boolq/default.yaml",
        0,
        splits={s: partial(pack.boolq, f"boolq/{p}") for s, p in (("train", "train"), ("validation", "val"))},
        fixed=True,
    ),
    "piqa": Benchmark(
        "PIQA",
        "piqa/piqa.yaml",
        0,
        splits={
            "train": partial(pack.columns, "piqa/train", PIQA),
            "validation": partial(pack.arrow, "piqa/plain_text/validation", PIQA),
        },
    ),
    "hellaswag": Benchmark(
        "HellaSwag",
        "hellaswag/hellaswag.yaml",
        10,
        "acc_norm",
        splits={
            "train": partial(pack.hellaswag, "hellaswag/train"),
            "validation": partial(pack.arrow, "hellaswag/none/validation", HELLASWAG),
        },
        differs="its few-shot documents exist only as another tool rendered them: the same documents in the same "
        "order, but where a WikiHow title follows a full stop stock lm-eval writes '..' and they have '.'",
    ),
    "winogrande": Benchmark(
        "WinoGrande",
        "winogrande/default.yaml",
        5,
        splits={
            "train": partial(pack.columns, "winogrande/train", WINOGRANDE),
            "validation": partial(pack.arrow, "winogrande/winogrande_xl/validation", WINOGRANDE),
        },
    ),
    "arc_easy": Benchmark("ARC-Easy", "arc/arc_easy.yaml", 0, splits=_arc("arc_easy"), evaluated="test"),
    "arc_challenge": Benchmark(
        "ARC-Challenge",
        "arc/arc_challenge.yaml",
        25,
        "acc_norm",
        splits=_arc("arc_challenge"),
        evaluated="test",
    ),
    "mmlu": Benchmark("MMLU", "mmlu/default", 5, evaluated="test", fixed=True),
}
PAPER = tuple(BENCHMARKS)


def parse_tasks(text: str) -> tuple[str, ...]:
    """`boolq,piqa` -> names of `BENCHMARKS`, each once. Raises `HwfitError` listing the unknown ones."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [n for n in names if n not in BENCHMARKS]
    raise_all([f"--tasks: '{name}' is unknown; {nearest(name, BENCHMARKS)}" for name in unknown])
    if not names:
        raise HwfitError(f"--tasks '{text}' names none; {nearest('', BENCHMARKS)}")
    return names


def parse_shots(text: str, names: tuple[str, ...]) -> dict[str, int]:
    """`paper`, or one number for all -> shots by task. Raises `HwfitError` for anything else."""
    if text == "paper":
        return {name: BENCHMARKS[name].shots for name in names}
    if not text.isdecimal() or int(text) > 25:
        raise HwfitError(f"--shots '{text}'; allowed: paper, or a number from 0 to 25")
    if "mmlu" in names and int(text) > 5:
        raise HwfitError(f"--shots {text}: MMLU has 5 documents a subject for few-shot prompts; allowed: paper, 0 to 5")
    return dict.fromkeys(names, int(text))


def stock_folder() -> Path:
    """Where lm-eval keeps its task definitions."""
    import lm_eval  # takes seconds to load

    return Path(lm_eval.__file__).parent / "tasks"
