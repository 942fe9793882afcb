"""Memory plan: what every stage of a search will hold at most, before it starts, and what would make it fit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch

from hwfit.errors import HwfitError, raise_all
from hwfit.precision import Precision
from hwfit.search.distil import DistilSettings
from hwfit.search.optimise import SearchSettings
from hwfit.search.scale_model import STAGES, TOP, Held, Job, held
from hwfit.search.study import StudySettings
from hwfit.space import Space
from hwfit.subnet import Subnet

UNITS = {"MB": 1e6, "GB": 1e9, "TB": 1e12, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40}
RESERVED = 1.5e9
"""Bytes of a GPU that CUDA, its libraries and torch's allocator take beside tensors."""
STEPPED = ("supernet weights", "architecture")
KINDS = {"supernet": ("what each choice costs", *STEPPED), "distil": ("distil",)}
"""Stages that the same changes make smaller."""
PROCESSES = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Run:
    """All that decides how much a search of a space holds."""

    config: Mapping[str, Any]
    space: Space
    study: StudySettings
    search: SearchSettings
    distil: DistilSettings
    dtype: torch.dtype
    gpu: bool
    processes: int = 1

    @property
    def stages(self) -> tuple[str, ...]:
        """Those there are: without steps, the supernet is not trained."""
        return tuple(name for name in STAGES if self.search.steps or name not in STEPPED)

    def held(self, *stages: str) -> dict[str, Held]:
        """Bytes of each stage on each device."""
        n = self.processes
        search = replace(self.search, sequences=max(1, self.search.sequences // n))
        distil = replace(self.distil, sequences=max(1, self.distil.sequences // n))
        job = Job(self.config, self.space, self.study.seq, search, distil, self.dtype, self.gpu)
        found = held(job, stages or self.stages)
        rows = max(0, self.study.train + self.study.validation - 8)  # the scale model keeps the answers for 8
        answers = rows * self.study.seq * (12 * TOP + 8)
        found = {name: replace(h, weights=h.weights + answers) for name, h in found.items()}
        return {n: self.sharded(h, self.processes) if n == "distil" else h for n, h in found.items()}

    def sharded(self, h: Held, processes: int) -> Held:
        """Under FSDP2: a student's weights, gradients and moments divided, one part of it whole."""
        if processes == 1:
            return h
        whole = Subnet.whole(self.space.shape)
        linears = [4 * n * k for n, k, _ in whole.linears.values()]
        block = sum(4 * n * k for n, k, _ in whole.block_linears(0).values())
        return replace(
            h,
            weights=h.weights - sum(linears) * (1 - 1 / processes),
            gradients=h.gradients / processes,
            adam=h.adam / processes,
            passing=h.passing + 2 * max(block, linears[-1]),
        )


@dataclass(frozen=True)
class Plan:
    """Every stage's bytes on a device that has `room` for them; `ways` say what would make those fit that do not."""

    device: str
    room: float
    stages: Mapping[str, Held]
    ways: Mapping[str, tuple[str, ...]]

    @property
    def fits(self) -> bool:
        return not self.ways

    def refuse(self) -> None:
        """Raises `HwfitError` naming every stage that does not fit and what would make it fit."""
        raise_all(
            [
                f"too little memory for '{name}': it needs {gb(self.stages[name].peak)}, {self.device} has room for "
                f"{gb(self.room)}; what would fit: {'; '.join(ways) or NOTHING}"
                for name, ways in self.ways.items()
            ]
        )


NOTHING = "a device with more memory, or --train-on cpu where there is more RAM"


def plan_memory(run: Run, device: str, room: float, advise: bool = True) -> Plan:
    """The plan of `run` on a device of that name with `room` bytes; without `advise` the ways stay empty."""
    stages = run.held()
    over = [name for name, h in stages.items() if h.peak > room]
    ways: dict[str, tuple[str, ...]] = dict.fromkeys(over, ())
    for kind, names in KINDS.items():
        failing = [name for name in over if name in names]
        if advise and failing:
            ways |= dict.fromkeys(failing, tuple(_ways(run, kind, failing, room)))
    return Plan(device, room, stages, ways)


def device_room(device: torch.device, given: str | None = None) -> tuple[str, float]:
    """A training device's name and the bytes a run may use there; `given` (as `80GB`) stands for another GPU's."""
    if given is not None:
        return f"a GPU of {given}", parse_bytes(given, "--gpu-memory") - RESERVED
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return torch.cuda.get_device_name(device), float(free) - RESERVED
    return "this machine", float(psutil.virtual_memory().available)


def parse_bytes(text: str, flag: str) -> float:
    """`80GB` in bytes. Raises `HwfitError` naming `flag`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]+)\s*", text)
    if not match or match[2] not in UNITS or float(match[1]) <= 0:
        raise HwfitError(f"{flag} '{text}' is no positive number with a unit; allowed units: {', '.join(UNITS)}")
    return float(match[1]) * UNITS[match[2]]


def surely_fits(run: Run, room: float) -> bool:
    """Whether a bound that is far above what any stage holds is within `room`, so that no plan need be made."""
    s = run.space.shape
    params = Subnet.whole(s).params
    width = run.dtype.itemsize * len(run.space.precisions)
    tokens = run.study.seq * max(8, run.search.sequences, run.search.judged, run.distil.sequences)
    a_token = 24 * s.vocab + s.blocks * (160 * s.hidden + 80 * s.mlp + 40 * s.heads * s.head_size)
    return params * (52 + 2 * width) + tokens * a_token <= room


def _ways(run: Run, kind: str, stages: Sequence[str], room: float) -> Iterator[str]:
    """Changes of settings under which all `stages` fit, each with its peak; the smallest change of each sort."""
    for words, changed in _changes(run, kind):
        peak = max(h.peak for h in changed.held(*stages).values())
        if peak <= room:
            yield f"{words} ({gb(peak)})"
            break
    if kind == "distil":
        whole = replace(run, processes=1, distil=replace(run.distil, recompute=True))
        base = whole.held("distil")["distil"]
        for n in PROCESSES:
            if (sharded := whole.sharded(base, n)).peak <= room:
                yield f"torchrun over {n} GPUs (--nproc-per-node) with --recompute ({gb(sharded.peak)} on each)"
                break


def _changes(run: Run, kind: str) -> Iterator[tuple[str, Run]]:
    if kind == "distil":
        lean = replace(run.distil, recompute=True)
        yield "--recompute", replace(run, distil=lean)
        yield "--recompute --sequences 1", replace(run, distil=replace(lean, sequences=1))
        yield "--distil lora", replace(run, distil=replace(run.distil, method="lora"))
        yield "--distil lora --recompute", replace(run, distil=replace(lean, method="lora"))
        yield "--distil lora --recompute --sequences 1", replace(run, distil=replace(lean, method="lora", sequences=1))
        return
    lean = replace(run.search, sequences=1, judged=1, recompute=True)
    names = [p.name for p in run.space.precisions]
    yield "--recompute", replace(run, search=replace(run.search, recompute=True))
    yield "--recompute --sequences 1", replace(run, search=lean)
    for kept in ([*names[-3:]], [*names[-2:]], [names[-1]]):
        space = replace(run.space, precisions=tuple(map(Precision.parse, kept)))
        flags = " ".join(f"--precision {name}" for name in kept)
        yield f"fewer precisions, such as {flags} --recompute --sequences 1", replace(run, space=space, search=lean)


def gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
