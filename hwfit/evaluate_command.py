"""`hwfit evaluate`: perplexity and the paper's seven benchmarks of deployed folders and plain Hugging Face models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table as RichTable

from hwfit.errors import HwfitError
from hwfit.evaluate.benchmarks import BENCHMARKS, PAPER, parse_shots, parse_tasks
from hwfit.evaluate.judge import Exam, heldout_tokens
from hwfit.evaluate.kept import kept
from hwfit.evaluate.perplexity import Perplexity, perplexity
from hwfit.evaluate.target import Target, find_target
from hwfit.evaluate.task_files import SOURCES
from hwfit.evaluate.task_result import TaskResult
from hwfit.progress import out_console, track

ALL_TASKS = ",".join(PAPER)


@dataclass(frozen=True)
class Evaluation:
    """What one model is worth: perplexity on held-out text, and its answers by benchmark."""

    perplexity: Perplexity
    tasks: dict[str, TaskResult]

    def to_dict(self) -> dict[str, Any]:
        tasks = {name: result.summary() for name, result in self.tasks.items()}
        return {"perplexity": asdict(self.perplexity), "tasks": tasks}


def evaluate(
    target: Sequence[str],
    documents: int = 40,
    rows: int = 24,
    text: Path | None = None,
    threads: int = 2,
    device: str = "cpu",
    tasks: str = ALL_TASKS,
    shots: str = "paper",
    data: str = "pack",
    json: bool = False,
) -> dict[str, Evaluation]:
    """Perplexity on held-out text and accuracy on benchmarks of deployed folders and Hugging Face models.

    `tasks` are asked through lm-eval's own definitions, `documents` of each (0: all), with the paper's `shots` or one
    number for all. `data` is the pinned pack or the hub. Every result is kept, so a rerun goes on where it stopped.
    `device` runs them: ONNX graphs or torch on `cpu`, packed weights or torch on `cuda`.
    """
    exam = Exam(rows=rows, documents=documents or 1)
    exam.check()
    names = parse_tasks(tasks)
    given = parse_shots(shots, names)
    if data not in SOURCES:
        raise HwfitError(f"--data '{data}'; allowed: {', '.join(SOURCES)}")
    found: dict[str, Evaluation] = {}
    for one in [find_target(name, device, threads) for name in target]:
        found[one.name] = _evaluate(one, exam, text, given, documents or None, data)
        one.close()
    if json:
        print(dumps({name: e.to_dict() for name, e in found.items()}))
        return found
    out_console.print(_table(found, given))
    for line in _notes(found, data):
        out_console.print(line, soft_wrap=True)
    return found


def _evaluate(
    target: Target, exam: Exam, text: Path | None, shots: dict[str, int], documents: int | None, data: str
) -> Evaluation:
    from hwfit.evaluate.ask import ask  # lm-eval takes seconds to load

    with track(len(shots) + 1, target.name) as advance:
        tokens = heldout_tokens(target.folder, exam, text)

        def make() -> tuple[Perplexity, Any]:
            value = perplexity(target.scorer(exam.seq), tokens)
            return value, asdict(value)

        advance(0, note="perplexity")
        value = kept(target.key, "perplexity", tokens.tolist(), lambda raw: Perplexity(**raw), make)
        advance()
        results = {}
        for name, count in shots.items():
            advance(0, note=BENCHMARKS[name].title)
            results[name] = ask(target, name, count, documents, data)
            advance()
    return Evaluation(value, results)


def _table(found: dict[str, Evaluation], shots: dict[str, int]) -> RichTable:
    """One row a benchmark, one column a model; `≈` marks the compression floor: what guessing gets as well."""
    table = RichTable("", "guessing", *found, box=SIMPLE)
    values = [e.perplexity for e in found.values()]
    table.add_row("perplexity (95 %)", "", *(f"{p.value:.2f} ({p.low:.2f}–{p.high:.2f})" for p in values))
    for name, count in shots.items():
        results = [e.tasks[name] for e in found.values()]
        label = f"{BENCHMARKS[name].title}, {count}-shot {results[0].metric}, {results[0].n} documents"
        cells = [f"{r.value:.3f} ± {r.stderr:.3f}{' ≈' if r.at_floor else ''}" for r in results]
        table.add_row(label, f"{results[0].floor:.3f}", *cells)
    means = [_mean(e) for e in found.values()]
    table.add_row("mean of the benchmarks", "", *(f"{value:.3f} ± {error:.3f}" for value, error in means))
    return table


def _mean(e: Evaluation) -> tuple[float, float]:
    n = len(e.tasks)
    return sum(r.value for r in e.tasks.values()) / n, sum(r.stderr**2 for r in e.tasks.values()) ** 0.5 / n


def _notes(found: dict[str, Evaluation], data: str) -> list[str]:
    results = [(name, r) for e in found.values() for name, r in e.tasks.items()]
    notes = [
        "± is the standard error over documents. ≈: guessing does as well (one-sided binomial, 5 %): the compression "
        "floor, below which nothing can be lost."
    ]
    cut = {f"{BENCHMARKS[n].title} ({r.cut} of {r.n})" for n, r in results if r.cut}
    if cut:
        notes.append(f"Prompts longer than the model's context lost their beginning: {', '.join(sorted(cut))}.")
    for name in dict.fromkeys(n for n, r in results if data == "pack" and r.shots and BENCHMARKS[n].differs):
        notes.append(f"{BENCHMARKS[name].title} from the pack: {BENCHMARKS[name].differs}.")
    return notes
