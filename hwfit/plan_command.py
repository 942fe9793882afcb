"""`hwfit search --dry-run`: the memory plan of a search, from a config alone; and its check before a real one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table as RichTable

from hwfit.models.llama import load_config, load_shape
from hwfit.predict_commands import config_of
from hwfit.progress import out_console, track
from hwfit.search import parallel
from hwfit.search.memory_plan import Plan, Run, device_room, gb, plan_memory, surely_fits
from hwfit.search.study import StudySettings, fast_dtype, training_device
from hwfit.search.training import Training
from hwfit.space import Space
from hwfit.space_files import AUTO, open_space

GPU_SM = 90
"""Whose precisions a plan for a GPU that is not here has, unless they are given."""


def plan(
    model: str | None = None,
    config: Path | None = None,
    precision: Sequence[str] = (),
    device: str = "cpu",
    gpu_memory: str | None = None,
    training: Training | None = None,
    train_on: str | None = None,
    space: str = AUTO,
) -> Plan:
    """Print what every stage of a search of MODEL holds at most and what would make those fit that do not.

    `config` (a config.json) stands in for MODEL: no weights are needed. `gpu_memory`, as `80GB`, stands for a GPU that
    is not here. Raises `HwfitError` for bad input; a plan that does not fit is printed all the same.
    """
    training = training or Training()
    training.check()
    path = config_of(model, config)
    trainer = torch.device("cpu") if gpu_memory else training_device(train_on)
    name, room = device_room(trainer, gpu_memory)
    gpu = gpu_memory is not None or trainer.type == "cuda"
    opened = open_space(space, load_shape(path), device, precision, GPU_SM if device != "cpu" else None)
    dtype = torch.bfloat16 if gpu else fast_dtype(trainer)
    run = Run(load_config(path), opened.space, StudySettings(), *_settings(training), dtype, gpu, parallel.ranks())
    with track(None, "Memory plan"):
        found = plan_memory(run, name, room)
    show(found, run)
    return found


def refuse_too_little_memory(path: Path, space: Space, training: Training, trainer: torch.device) -> None:
    """Raises `HwfitError` naming what would fit, unless every stage has room on the device. Before anything trains."""
    name, room = device_room(trainer)
    gpu = trainer.type == "cuda"
    dtype = torch.bfloat16 if gpu else fast_dtype(trainer)
    run = Run(load_config(path), space, StudySettings(), *_settings(training), dtype, gpu, parallel.ranks())
    if surely_fits(run, room):
        return
    with track(None, "Memory plan", parallel.first()):
        found = plan_memory(run, name, room, advise=False)
        found = found if found.fits else plan_memory(run, name, room)
    found.refuse()


def show(found: Plan, run: Run) -> None:
    """One row a stage, and a line for each that does not fit."""
    tokens = run.study.seq * run.search.sequences
    title = f"peak memory on {found.device}, {tokens} tokens a step, {str(run.dtype).removeprefix('torch.')}"
    table = RichTable("", "model", "gradients", "Adam", "activations", "peak", "fits", title=title, box=SIMPLE)
    for name, h in found.stages.items():
        beside = h.peak - h.weights - h.gradients - h.adam
        cells = (h.weights, h.gradients, h.adam, max(0.0, beside), h.peak)
        table.add_row(name, *map(gb, cells), "[green]yes[/]" if h.peak <= found.room else "[red]no[/]")
    out_console.print(table)
    precisions = ", ".join(p.name for p in run.space.precisions)
    out_console.print(f"room {gb(found.room)}; {len(run.space.precisions)} precisions: {precisions}", soft_wrap=True)
    for name, ways in found.ways.items():
        out_console.print(escape(f"{name}: would fit with {'; or '.join(ways) or 'more memory only'}"), soft_wrap=True)


def _settings(training: Training):
    return training.search_settings(), training.distil_settings()
