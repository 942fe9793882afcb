"""Every command and Python block of the how-tos runs, in order, in an empty folder.

The tests put a tiny random model in the place of SmolLM2 and a made-up pack in that of NVIDIA's tables, shorten what
each page says in its `<!-- test: ... -->` lines, and time everything for a moment only. Commands marked `(needs …)` or
`(takes …)` are only parsed; those that need a GPU are typed where there is none, and must refuse in words.
"""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pdoc
import pytest
import torch
import typer
from small_model import write_small_model
from typer.testing import CliRunner

import hwfit.commands
from benchmarks.pages import HOWTOS, ROOT, Step, read_steps
from hwfit.cli import app
from hwfit.errors import HwfitError
from hwfit.latency_models.contenders import CONTENDERS
from hwfit.lut_store import aiconfigurator
from hwfit.profiler import anchor, protocol, sizing, subnets
from hwfit.profiler.device_kinds import DEVICES
from hwfit.profiler.protocol import Rules

PAGES = [ROOT / "README.md", *HOWTOS]
GPUS = {"a100_sxm": (2.0e12, 3.1e14, 1.0), "l40s": (0.86e12, 3.6e14, 1.4)}  # bytes and operations a second, int4's cost


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder and an empty cache; the tiny model is beside them."""
    write_small_model(tmp_path / "small")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")
    pack = write_pack(tmp_path / "aic.whl")
    monkeypatch.setattr(aiconfigurator, "wheel", lambda pack_, progress: pack)
    monkeypatch.setitem(protocol.RULES, "cpu", Rules(seconds=0.02, min_rounds=3, max_rounds=6))
    monkeypatch.setattr(subnets, "time_models", partial(hasty, subnets.time_models))
    for module in (anchor, sizing):
        monkeypatch.setattr(
            module, "cold_bytes", lambda cache: 4_000_000
        )  # chains from cache: nobody reads the figures
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path / "empty"


def hasty(time_models: Callable, models: Any, workload: Any, seconds: float, *rest: Any) -> Any:
    """Whole models timed for a moment in place of seconds."""
    return time_models(models, workload, min(seconds, 0.1), *rest)


def write_pack(path: Path) -> Path:
    """Two GPUs whose layers take what a roofline says."""
    with zipfile.ZipFile(path, "w") as archive:
        for chip, (bandwidth, flops, int4) in GPUS.items():
            root = f"{aiconfigurator.ROOT}/data/{chip}/trtllm/1.0"
            rows = ["framework,version,device,op_name,kernel_source,gemm_dtype,m,n,k,latency"]
            for m, n, k in itertools.product(
                (1, 2, 8, 128), (512, 2048, 4096, 14336, 131072), (512, 2048, 4096, 14336)
            ):
                for dtype, bits, cost in (("float16", 16, 1.0), ("int4_wo", 4, int4), ("sq", 8, 0.5)):
                    seconds = 4e-6 + cost * max(n * k * bits / 8 / bandwidth, 2 * m * n * k / flops)
                    rows.append(f"TRTLLM,1.0,{chip},gemm,made up,{dtype},{m},{n},{k},{seconds * 1e3:.9f}")
            facts = f"gpu: {{mem_bw: {bandwidth:.0f}, float16_tc_flops: {flops:.0f}, mem_capacity: 85899345920}}\n"
            head = "batch_size,isl,num_heads,num_key_value_heads,head_dim,attn_dtype,kv_cache_dtype,step,latency,"
            archive.writestr(f"{aiconfigurator.ROOT}/{chip}.yaml", facts)
            archive.writestr(f"{root}/gemm_perf.txt", "\n".join(rows) + "\n")
            for phase in ("context", "generation"):
                archive.writestr(f"{root}/{phase}_attention_perf.txt", head + "kernel_source\n")
    return path


@pytest.mark.parametrize("page", HOWTOS, ids=lambda page: page.stem)
def test_every_step_of_a_page_works(page: Path, folder: Path) -> None:
    steps, names = read_steps(page, "test"), {"__name__": "__main__"}
    assert len(steps) >= 2
    threads, known = torch.get_num_threads(), [(registry, dict(registry)) for registry in (CONTENDERS, DEVICES)]
    try:
        for step in steps:
            run(step, names)
    finally:
        torch.set_num_threads(threads)
        for registry, before in known:
            registry.clear()
            registry.update(before)


def run(step: Step, names: dict) -> None:
    if step.kind == "python":
        exec(compile(step.text, "a page's block", "exec", dont_inherit=True), names)
    elif step.unless is None and not step.text.startswith("hwfit "):
        subprocess.run(["bash", "-ec", step.text], check=True)
    elif step.unless is None:
        result = CliRunner().invoke(app, shlex.split(step.text)[1:], catch_exceptions=False)
        assert result.exit_code in step.exits, f"{step.text}\n{result.output}"
    elif step.unless == "needs a GPU" and not torch.cuda.is_available():
        result = CliRunner().invoke(app, shlex.split(step.text)[1:])
        told = str(result.exception) if isinstance(result.exception, HwfitError) else result.output
        assert result.exit_code, step.text
        assert "GPU" in told, told


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_and_flag_of_a_page_exists(page: Path) -> None:
    steps = [step for step in read_steps(page, "reader") if "hwfit " in step.text and step.kind == "bash"]
    assert steps
    for step in steps:
        parse(shlex.split(step.text.partition("hwfit ")[2]))


def parse(words: list[str]) -> None:
    """Raises click's error for an unknown command or flag, and for a value that is none."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name, words = words[0], words[1:]
        command = command.commands[name]
    command.make_context(command.name, list(words))


def test_a_wrong_flag_would_be_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        parse(["predict", "smollm2-135m", "--devise", "cpu"])


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "docs/figures.md", ROOT / "docs/what-to-believe.md"]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_command_says_what_each_of_its_parameters_is() -> None:
    for path, command in commands(typer.main.get_command(app), "hwfit"):
        assert command.help, path
        silent = [p.name for p in command.params if not getattr(p, "help", None)]
        assert not silent, f"{path}: {silent}"


def test_the_reference_documents_every_command() -> None:
    page = pdoc.pdoc("hwfit.commands")
    for name in hwfit.commands.__all__:
        assert getattr(hwfit.commands, name).__doc__, name
        assert f'id="{name}"' in page, name


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield path, command
    for name, sub in getattr(command, "commands", {}).items():
        yield from commands(sub, f"{path} {name}")
