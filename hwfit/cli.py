"""The front door: every command is the public function of the same name in `hwfit.commands`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import typer
from rich.console import Console

from hwfit import cli_export, cli_judge, cli_search, cli_tables
from hwfit.cli_options import (
    Batch,
    Config,
    Context,
    Device,
    ModelOrConfig,
    Precisions,
    Prompt,
    SpaceName,
    Tables,
    TrainOn,
    commands,
)
from hwfit.errors import HwfitError
from hwfit.pick_command import pick

app = typer.Typer(
    help="Fit a pretrained LLM to a hardware envelope: width, depth and per-layer precision, searched together "
    "against measured milliseconds.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

app.add_typer(cli_tables.app, name="tables")
cli_export.register(app)
app.command()(pick)

Folders = Annotated[list[str], typer.Argument(help="Deployed folders or .onnx files")]


@app.command()
def fetch(name: Annotated[str, typer.Argument(help="Known model")] = "smollm2-135m") -> None:
    """Download a known model and make a plain Hugging Face directory of it; the last line is its path."""
    commands().fetch(name)


@app.command()
def profile(
    model: ModelOrConfig = None,
    device: Device = "cpu",
    tables: Tables = None,
    minutes: Annotated[float | None, typer.Option(help="Time budget; the most useful cells come first")] = None,
    precision: Precisions = None,
    coarse: Annotated[bool, typer.Option(help="Only the grid that every width can be interpolated from")] = False,
    whole_models: Annotated[int, typer.Option(help="Random whole models timed to fit the overhead")] = 16,
    allow_busy: Annotated[bool, typer.Option("--allow-busy", help="Measure a GPU that others use, too")] = False,
    allow_mig: Annotated[bool, typer.Option("--allow-mig", help="Measure one partition of a GPU in MIG mode")] = False,
    config: Config = None,
    batch: Annotated[list[int] | None, typer.Option(help="Sequences at a time; repeatable")] = None,
    prompt: Annotated[list[int] | None, typer.Option(help="Tokens of a prompt; repeatable")] = None,
    context: Context = 128,
    space: SpaceName = "auto",
) -> None:
    """Measure every layer shape of MODEL's search space on this machine; rerunning resumes."""
    commands().profile(
        model=model,
        device=device,
        tables=tables,
        minutes=minutes,
        precision=precision or (),
        coarse=coarse,
        whole_models=whole_models,
        allow_busy=allow_busy,
        allow_mig=allow_mig,
        config=config,
        batch=batch or (1,),
        prompt=prompt or (128,),
        context=context,
        space=space,
    )


@app.command()
def doctor(
    device: Device = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON list instead of a table")] = False,
) -> None:
    """Say what about this machine will show in measured latencies; exit code 1 if figures would be useless."""
    from hwfit.profiler.doctor import useless

    if useless(commands().doctor(device, json)):
        raise typer.Exit(1)


@app.command()
def predict(
    target: Annotated[
        str | None,
        typer.Argument(help="Model, subnet.json, or a folder with one; or give --config", metavar="MODEL|SUBNET"),
    ] = None,
    device: Device = "cpu",
    tables: Tables = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table")] = False,
    config: Config = None,
    batch: Batch = 1,
    prompt: Prompt = 128,
    context: Context = 128,
) -> None:
    """Predict latency, memory and energy of a subnet, or of MODEL at every precision."""
    commands().predict(
        target=target,
        device=device,
        tables=tables,
        json=json,
        config=config,
        batch=batch,
        prompt=prompt,
        context=context,
    )


@app.command()
def advise(
    model: ModelOrConfig = None,
    device: Device = "cpu",
    tables: Tables = None,
    config: Config = None,
    batch: Batch = 1,
    prompt: Prompt = 128,
    context: Context = 128,
) -> None:
    """Say which of MODEL's layers get faster at which precision on a device, and which get slower."""
    commands().advise(
        model=model,
        device=device,
        tables=tables,
        config=config,
        batch=batch,
        prompt=prompt,
        context=context,
    )


@app.command()
def transfer(
    a: Annotated[str, typer.Argument(help="Device whose table decisions are made with", metavar="A")],
    b: Annotated[str, typer.Argument(help="Device they are made for; its table scores them", metavar="B")],
    shots: Annotated[
        list[int] | None, typer.Option(help="Cells measured on B, repeatable [default: 0, 10, 50, 200]")
    ] = None,
    tables: Tables = None,
    alone: Annotated[bool, typer.Option(help="Without the help of the table's other devices")] = False,
    config: Annotated[Path | None, typer.Option(help="The model for whole subnets [default: Llama-3.1-8B]")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the curve to a .png")] = None,
) -> None:
    """Say whether speed-ups found on device A hold on B, or after how many measurements there."""
    commands().transfer(a, b, shots or (), tables, alone, config, out)


cli_search.add(app)


@app.command()
def measure(
    target: Folders,
    device: Device = "cpu",
    tables: Tables = None,
    seconds: Annotated[float, typer.Option(help="Seconds a model", min=0.1)] = 6.0,
    batch: Batch = 1,
    prompt: Prompt = 128,
    context: Context = 128,
) -> None:
    """Time deployed models on this machine, interleaved."""
    commands().measure(target, device, tables, seconds, batch=batch, prompt=prompt, context=context)


cli_judge.add(app)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="Run folder")]) -> None:
    """Write report.html and pareto.png of a run again and print its table."""
    commands().report(run)


@app.command()
def demo(
    quick: Annotated[bool, typer.Option(help="Every stage with few steps, in under four minutes")] = False,
    out: Annotated[Path, typer.Option(help="Run folder")] = Path("runs/demo"),
    model: Annotated[str, typer.Option(help="Model to fit")] = "smollm2-135m",
    device: Device = "cpu",
    tables: Tables = None,
    train_on: TrainOn = None,
) -> None:
    """The main job end to end: fetch, profile, search, distil, export, measure, judge, report."""
    commands().demo(quick, out, model, device, tables, train_on)


def main(run: Callable[..., Any] = app) -> None:
    """Entry point: a user's mistake is printed as a list of problems and exits with code 2."""
    try:
        run()
    except HwfitError as error:
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        for problem in error.problems:
            console.print(f"[bold red]error[/bold red]: {_plain(problem)}")
        sys.exit(2)


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


if __name__ == "__main__":
    main()
