"""Setting: one device's table under one workload, over the same choices as every other setting."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.strategies import DAMAGE, SEARCH, STUDY, save_damage
from hwfit.kernels.op import Op, linear
from hwfit.latency_models.choices import Choices
from hwfit.latency_models.estimate import Estimate
from hwfit.latency_models.load import load_latency
from hwfit.latency_models.whole import Prices, WholeModel
from hwfit.lut_store.aiconfigurator import import_aiconfigurator
from hwfit.lut_store.shipped import SHIPPED
from hwfit.lut_store.table import Table
from hwfit.models.llama import open_model
from hwfit.search.costs import predicted_cost
from hwfit.search.discretise import Picked
from hwfit.search.joint import Searcher
from hwfit.search.sensitivity import Damage
from hwfit.search.strategies.picks import whole
from hwfit.search.study import prepare
from hwfit.space import LINEAR_WIDTHS, Space
from hwfit.subnet import ModelShape, Subnet
from hwfit.workload import Phase, PhaseName, Workload

Array = NDArray[np.float64]
CLASSES: Mapping[str, tuple[str, str]] = {
    "full": ("w32", "w16a16"),
    "w8a8": ("w8a8", "w8a8"),
    "w8": ("w8a8g32", "w8a16"),
    "w4": ("w4a8g32", "w4a16"),
}
"""Precisions that stand for each other, on the CPU and on the GPU, in the order of the space's."""
CPU, GPU = 0, 1
KINDS = tuple(LINEAR_WIDTHS)
OWN = DAMAGE.with_name("smollm2_damage_gpu.json")
BATCHED = 64
"""Prompts at once, which a GPU has and this CPU's table does not."""


@dataclass(frozen=True)
class _Changed(ABC):
    """Prices made of another's."""

    of: Prices

    @property
    def device(self) -> str:
        return self.of.device

    @property
    def precisions(self) -> set[str]:
        return self.of.precisions

    @abstractmethod
    def predict(self, op: Op) -> Estimate: ...

    def price(self, op: Op) -> float:
        return self.predict(op).value


@dataclass(frozen=True)
class LinearsOnly(_Changed):
    """The prices of linears; all else takes no time."""

    def predict(self, op: Op) -> Estimate:
        return self.of.predict(op) if op.kind == "linear" else Estimate(0.0, 0.0, 0.0, "left out")


@dataclass(frozen=True)
class Redrawn(_Changed):
    """Prices drawn from their own 90 % intervals, log-normal and apart for every op: another table, no less likely."""

    seed: int

    def predict(self, op: Op) -> Estimate:
        told = self.of.predict(op)
        if not 0 < told.low <= told.value:
            return told
        sigma = math.log(told.high / told.low) / (2 * 1.645)
        factor = math.exp(sigma * random.Random(f"{self.seed} {op}").gauss(0, 1))
        return Estimate(told.value * factor, told.low, told.high, told.source)


@dataclass(frozen=True)
class Setting:
    """`name` is `device phase`; picks mean the same in all settings, as their spaces differ in precisions only."""

    name: str
    space: Space
    latency: WholeModel
    workload: Workload
    metric: PhaseName

    @property
    def phase(self) -> Phase:
        return self.workload.phase(self.metric)

    def seconds(self, picked: Picked, order: tuple[int, ...]) -> float:
        return predicted_cost(self.latency, self.workload, picked.subnet(self.space, order), [self.metric])[self.metric]

    def by_kind(self, **smallest: int) -> Array:
        """Seconds of all linears of each kind at each precision, [kinds, precisions]; `depth=3` is that choice."""
        picked, order = replace(whole(self.space, 0), **smallest), range(self.space.shape.blocks)
        out = np.zeros((len(KINDS), len(CLASSES)))
        for p in range(len(CLASSES)):
            at = replace(picked, precision=whole(self.space, p).precision, lm_head=p)
            for op, kind in _linears(at.subnet(self.space, order), self.phase):
                out[KINDS.index(kind), p] += self.latency.price(op)
        return out

    @cached_property
    def fastest(self) -> float:
        """Seconds of the fastest model of one precision everywhere: what budgets are shares of."""
        order = tuple(range(self.space.shape.blocks))
        return min(self.seconds(whole(self.space, p), order) for p in range(len(CLASSES)))

    @property
    def prices(self) -> list[Estimate]:
        """Of the whole model's linears at every precision."""
        picks = [whole(self.space, p).subnet(self.space, range(self.space.shape.blocks)) for p in range(len(CLASSES))]
        ops = {op for subnet in picks for op, _ in _linears(subnet, self.phase)}
        return [self.latency.lookup.predict(op) for op in ops]

    def redrawn(self, seed: int) -> Setting:
        return replace(self, latency=WholeModel(Redrawn(self.latency.lookup, seed)))

    def smallest(self, axis: str) -> dict[str, int]:
        return {axis: len(getattr(self.space, axis)) - 1}


def _linears(subnet: Subnet, phase: Phase) -> list[tuple[Op, str]]:
    out = []
    for name, (n, k, p) in subnet.linears.items():
        kind = name.rpartition(".")[2]
        out.append((linear(phase.batch if kind == "lm_head" else phase.m, n, k, p.name), kind))
    return out


def settings(shape: ModelShape, cpu: str, cpu_tables: Path | str | None, gpu: str, gpu_tables: Path) -> list[Setting]:
    """Decode and prefill on both devices, and prefill of many prompts on the GPU. Linears only."""
    spaces = [space_of(shape, device) for device in (CPU, GPU)]
    prices = [load_latency(key, tables).lookup for key, tables in ((cpu, cpu_tables), (gpu, gpu_tables))]
    latency = [WholeModel(LinearsOnly(p)) for p in prices]
    many = Workload(batch=BATCHED)
    return [
        Setting("cpu decode", spaces[CPU], latency[CPU], Workload(), "decode"),
        Setting("cpu prefill", spaces[CPU], latency[CPU], Workload(), "prefill"),
        Setting("a100 decode", spaces[GPU], latency[GPU], Workload(), "decode"),
        Setting("a100 prefill", spaces[GPU], latency[GPU], Workload(), "prefill"),
        Setting(f"a100 prefill x{BATCHED}", spaces[GPU], latency[GPU], many, "prefill"),
    ]


def everything(shape: ModelShape, cpu: str, tables: Path | str | None) -> list[Setting]:
    """The CPU's settings with all ops and the overhead priced."""
    latency, space = load_latency(cpu, tables), space_of(shape, CPU)
    return [
        Setting("cpu decode, all ops", space, latency, Workload(), "decode"),
        Setting("cpu prefill, all ops", space, latency, Workload(), "prefill"),
    ]


def space_of(shape: ModelShape, device: int) -> Space:
    precisions = tuple(names[device] for names in CLASSES.values())
    return Space.default(shape, precisions, precisions[0] if device == GPU else Space.default(shape).embed.name)


def imported(device: str, folder: Path) -> str:
    """The key of a published table, written under `folder` if it is not there; its contests are kept there too."""
    return import_aiconfigurator(device, Table(folder))[-1].device


def measure_own(shape: ModelShape, cpu: str, out: Path) -> None:
    """The damages of SmolLM2 at the GPU's precisions, into `OWN`; minutes."""
    study = prepare(open_model("smollm2-135m"), STUDY, out / "checkpoints")
    latency = load_latency(cpu, SHIPPED)  # a searcher wants prices; damages need none
    study = replace(study, space=space_of(shape, GPU))
    save_damage(Searcher(study, latency, Workload(), SEARCH, out / "checkpoints"), OWN)


def without_others(damage: Damage, measured: Space) -> Damage:
    """Damages of the precisions in `CLASSES` alone, of those measured in a wider space."""
    names = [p.name for p in measured.precisions]
    keep = [names.index(cpu) for cpu, _ in CLASSES.values()]
    table = damage.table
    parts = {name: getattr(table, name) for name in Choices.__dataclass_fields__}
    parts |= {"precision": table.precision[..., keep], "lm_head": table.lm_head[..., keep]}
    return replace(damage, table=Choices(**parts))
