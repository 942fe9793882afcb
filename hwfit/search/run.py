"""Run: search a whole front, re-measure it on the device, distil it; what is finished is on disk and not redone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hwfit.deploy.bundle import Bundle, load_bundle, quantise_bundle, save_bundle
from hwfit.files import is_number, parse_json, readable, write_text
from hwfit.latency_models.whole import WholeModel
from hwfit.progress import track
from hwfit.search import parallel
from hwfit.search.budget import Budget
from hwfit.search.choice import Choice
from hwfit.search.distil import DistilSettings, Student, distil
from hwfit.search.feasible import refuse_infeasible
from hwfit.search.hidden import HiddenStates
from hwfit.search.joint import Found, Searcher, beaten
from hwfit.search.optimise import SearchSettings
from hwfit.search.remeasure import remeasure
from hwfit.search.strategies.find import find
from hwfit.search.study import Study
from hwfit.subnet import ModelShape, Subnet
from hwfit.workload import PHASES, Workload

Measure = Callable[[Mapping[str, Subnet]], Mapping[str, Mapping[str, float]]]
MARK = "distilled.json"
"""What the bundle in the same folder was trained as, written last."""


def search_front(
    study: Study,
    latency: WholeModel,
    workload: Workload,
    budgets: Mapping[str, Budget],
    measure: Measure,
    settings: SearchSettings,
    folder: Path,
    sequential: Mapping[str, Budget] | None = None,
    progress: bool = True,
) -> dict[str, Choice]:
    """One subnet a budget from one supernet by the strategy of `settings`, plus architecture-then-quantise ones for
    `sequential`.

    Results are re-measured with `measure(name -> subnet) -> name -> {phase: seconds}` and repaired until they meet
    their budgets as measured. Raises `HwfitError` before any training if no subnet keeps a budget. Killed and called
    again, it goes on from its checkpoints to the same result. Under torchrun all processes train; the first one alone
    measures, and its choices are all processes'.
    """
    sequential = sequential or {}
    wanted = {**budgets, **sequential}
    asked = [(n, str(b)) for n, b in wanted.items()]
    key, resume_key = (digest(study, workload, s, asked) for s in (settings, settings.training()))
    paths = {name: folder / "found" / f"{name}.json" for name in wanted}
    kept = {name: choice for name, path in paths.items() if (choice := Choice.load(path, key))}
    if parallel.from_first(lambda: len(kept) == len(wanted)):
        parallel.wait()
        return {name: kept[name] for name in wanted}

    refuse_infeasible(wanted.values(), study.space, latency, workload)
    searcher = Searcher(study, latency, workload, settings, folder / "checkpoints", progress)
    searcher.train_supernet(resume_key)
    found: dict[str, Found] = {n: find(searcher, settings.strategy, n, b, resume_key) for n, b in budgets.items()}
    found |= {n: find(searcher, "sequential", n, b, resume_key) for n, b in sequential.items()}
    remembered = remembering(measure, folder / "checkpoints" / "measured.json", resume_key)

    def settled() -> dict[str, str]:
        last = remeasure(searcher, found, remembered, settings.remeasure_rounds)
        worse = beaten(searcher, {name: last[name] for name in budgets})
        out = {}
        for name, f in last.items():
            kind = "sequential" if name in sequential else settings.strategy
            out[name] = Choice(name, kind, f.budget, f.subnet, f.log, worse.get(name)).to_json(key)
            write_text(paths[name], out[name])
        return out

    texts = parallel.from_first(settled)
    told = {name: Choice.from_json(texts[name], key, str(paths[name])) for name in wanted}
    return {name: choice for name, choice in told.items() if choice}


def remembering(measure: Measure, path: Path, key: str) -> Measure:
    """`measure` whose finished calls are kept in `path` in their order: a killed run that asks the same again gets
    the same answers, so that it ends where it would have ended."""
    known: list[dict[str, Any]] = []
    if path.exists():
        with readable(path, "measure again"):
            raw = parse_json(path.read_text())
            known = raw["calls"] if raw["key"] == key and isinstance(raw["calls"], list) else []
    calls = 0

    def remembered(subnets: Mapping[str, Subnet]) -> Mapping[str, Mapping[str, float]]:
        nonlocal calls
        asked = {name: json.loads(s.to_json()) for name, s in subnets.items()}
        if not (calls < len(known) and _answers(known[calls], asked)):
            del known[calls:]
            told = {name: dict(times) for name, times in measure(subnets).items()}
            known.append({"asked": asked, "told": told})
            write_text(path, json.dumps({"key": key, "calls": known}))
        calls += 1
        return known[calls - 1]["told"]

    return remembered


def distil_all(
    study: Study,
    choices: Mapping[str, Choice],
    settings: DistilSettings,
    folder: Path,
    trained: Mapping[str, bool] | None = None,
    progress: bool = True,
) -> dict[str, Path]:
    """A bundle folder for each choice under `folder/subnets`, distilled from the original unless `trained` says no."""
    parallel.share(settings.sequences)  # refuses a batch that cannot be shared, before anything is trained
    out = {}
    with track(settings.steps * len(choices), "Distilling", progress) as advance:
        for name, choice in choices.items():
            out[name] = folder / "subnets" / name
            train = (trained or {}).get(name, True)
            keys = [digest(study, s, choice.subnet.to_json(), train) for s in (settings, settings.training())]
            if parallel.from_first(partial(_finished, out[name], keys[0])):
                advance(settings.steps)
                continue

            def step(steps: float = 1.0, note: str | None = None, name: str = name) -> None:
                advance(steps, note=f"{name} {note or ''}")

            if train:
                checkpoint = folder / "checkpoints" / f"distil-{name}.safetensors"
                bundle, losses = _distilled(study, choice.subnet, settings, checkpoint, keys[1], step)
            else:
                shape, o = ModelShape.from_config(study.config), study.ordered
                weights, energy = ({n: t.cpu() for n, t in of.items()} for of in (o.weights, o.energy))
                bundle, losses = quantise_bundle(weights, shape, study.config, choice.subnet, energy), []
                advance(settings.steps)
            if parallel.first():
                save_bundle(bundle, out[name])
                write_text(out[name] / MARK, json.dumps({"key": keys[0], "losses": losses}))
                (folder / "checkpoints" / f"distil-{name}.safetensors").unlink(missing_ok=True)
            parallel.wait()
    return out


def _answers(call: Any, asked: Mapping[str, Any]) -> bool:
    """Whether a kept call asked the same and has the times of both phases."""
    told = call.get("told") if isinstance(call, dict) and call.get("asked") == asked else None
    rows = list(told.values()) if isinstance(told, dict) and told.keys() == asked.keys() else [None]
    return all(isinstance(row, dict) and all(is_number(row.get(p)) for p in PHASES) for row in rows)


def _distilled(
    study: Study, subnet: Subnet, settings: DistilSettings, checkpoint: Path, key: str, advance: Callable[..., None]
) -> tuple[Bundle, list[float]]:
    student = Student(study.ordered, study.config, subnet, study.dtype, settings.pairs, settings.recompute)
    hidden = HiddenStates(study.ordered, study.config, subnet, study.dtype) if settings.hidden else None
    losses = distil(student, study.train, settings, checkpoint, key, advance, hidden, study.validation)
    return student.bundle(), losses


def _finished(folder: Path, key: str) -> bool:
    """Whether the bundle is there and whole. Raises `HwfitError` if it is damaged."""
    mark = folder / MARK
    with readable(mark, "distil again"):
        done = mark.exists() and parse_json(mark.read_text())["key"] == key
    if done:
        load_bundle(folder)
    return done


def digest(study: Study, *parts: object) -> str:
    """What a stored result depends on, as a short hash."""
    text = repr((str(study.model.name), study.space.to_dict(), len(study.train), len(study.validation), parts))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
