"""Run: search a whole front, re-measure it on the device, distil it; what is finished is on disk and not redone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from hwfit.deploy.bundle import load_bundle, quantise_bundle, save_bundle
from hwfit.errors import HwfitError
from hwfit.files import write_text
from hwfit.latency_models.whole import WholeModel
from hwfit.progress import track
from hwfit.search.budget import Budget
from hwfit.search.distil import DistilSettings, Student, distil
from hwfit.search.feasible import refuse_infeasible
from hwfit.search.joint import Found, Searcher, beaten, remeasure
from hwfit.search.optimise import SearchSettings, StepLog
from hwfit.search.study import Study
from hwfit.subnet import ModelShape, Subnet
from hwfit.workload import Workload

Measure = Callable[[Mapping[str, Subnet]], Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True)
class Choice:
    """A finished search result as kept on disk: `kind` is joint, sequential or uniform.

    `beaten_by` names another of the front that makes it pointless (see `joint.beaten`).
    """

    name: str
    kind: str
    budget: Budget | None
    subnet: Subnet
    log: tuple[StepLog, ...] = ()
    beaten_by: str | None = None

    def to_json(self, key: str) -> str:
        limits = self.budget.limits if self.budget else None
        body = {"key": key, "name": self.name, "kind": self.kind, "budget": limits, "beaten_by": self.beaten_by}
        return json.dumps(body | {"subnet": json.loads(self.subnet.to_json()), "log": [asdict(s) for s in self.log]})

    @classmethod
    def load(cls, path: Path, key: str) -> Choice | None:
        """The choice in `path` if it was made under the same `key`. Raises `HwfitError` for a damaged file."""
        if not path.exists():
            return None
        try:
            raw = json.loads(path.read_text())
            if raw["key"] != key:
                return None
            budget = Budget(tuple((str(m), float(v)) for m, v in raw["budget"])) if raw["budget"] else None
            subnet = Subnet.from_json(json.dumps(raw["subnet"]), source=str(path))
            log = tuple(StepLog(**s) for s in raw["log"])
            return cls(raw["name"], raw["kind"], budget, subnet, log, raw.get("beaten_by"))
        except (ValueError, KeyError, TypeError) as error:
            raise HwfitError(f"{path}: damaged ({type(error).__name__}: {error}); delete it to search again") from error


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
    """One joint subnet a budget from one supernet, plus architecture-then-quantise ones for `sequential`.

    Results are re-measured with `measure(name -> subnet) -> name -> {phase: seconds}` and repaired until they meet
    their budgets as measured. Raises `HwfitError` before any training if no subnet keeps a budget.
    """
    sequential = sequential or {}
    wanted = {**budgets, **sequential}
    key = digest(study, workload, settings, [(n, str(b)) for n, b in wanted.items()])
    paths = {name: folder / "found" / f"{name}.json" for name in wanted}
    kept = {name: choice for name, path in paths.items() if (choice := Choice.load(path, key))}
    if len(kept) == len(wanted):
        return {name: kept[name] for name in wanted}

    refuse_infeasible(wanted.values(), study.space, latency, workload)
    searcher = Searcher(study, latency, workload, settings, folder / "checkpoints", progress)
    searcher.train_supernet(key)
    found: dict[str, Found] = {name: searcher.find(name, budget, key) for name, budget in budgets.items()}
    found |= {name: searcher.find_sequential(name, budget, key) for name, budget in sequential.items()}
    found = remeasure(searcher, found, measure, settings.remeasure_rounds)
    worse = beaten(searcher, {name: found[name] for name in budgets})
    out = {}
    for name, f in found.items():
        kind = "sequential" if name in sequential else "joint"
        out[name] = Choice(name, kind, f.budget, f.subnet, f.log, worse.get(name))
        write_text(paths[name], out[name].to_json(key))
    return out


def distil_all(
    study: Study,
    choices: Mapping[str, Choice],
    settings: DistilSettings,
    folder: Path,
    trained: Mapping[str, bool] | None = None,
    progress: bool = True,
) -> dict[str, Path]:
    """A bundle folder for each choice under `folder/subnets`, distilled from the original unless `trained` says no."""
    out = {}
    with track(settings.steps * len(choices), "Distilling", progress) as advance:
        for name, choice in choices.items():
            target = folder / "subnets" / name
            key = digest(study, settings, choice.subnet.to_json(), (trained or {}).get(name, True))
            out[name] = target
            mark = target / "distilled.json"
            if mark.exists() and json.loads(mark.read_text())["key"] == key:
                load_bundle(target)
                advance(settings.steps)
                continue
            losses: list[float] = []
            if (trained or {}).get(name, True):
                student = Student(study.ordered, study.config, choice.subnet, study.dtype)
                checkpoint = folder / "checkpoints" / f"distil-{name}.safetensors"

                def step(steps: float = 1.0, note: str | None = None, name: str = name) -> None:
                    advance(steps, note=f"{name} {note or ''}")

                losses = distil(student, study.train, settings, checkpoint, key, step)
                bundle = student.bundle()
                checkpoint.unlink(missing_ok=True)
            else:
                shape, o = ModelShape.from_config(study.config), study.ordered
                weights, energy = ({n: t.cpu() for n, t in of.items()} for of in (o.weights, o.energy))
                bundle = quantise_bundle(weights, shape, study.config, choice.subnet, energy)
                advance(settings.steps)
            save_bundle(bundle, target)
            write_text(mark, json.dumps({"key": key, "losses": losses}))
    return out


def digest(study: Study, *parts: object) -> str:
    """What a stored result depends on, as a short hash."""
    text = repr((str(study.model.name), study.space.to_dict(), len(study.train), len(study.validation), parts))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
