"""The front door of `hwfit search`, which is the public function of the same name in `hwfit.commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwfit.cli_options import Batch, Context, Device, Precisions, Prompt, SpaceName, Tables, TrainOn, commands


def search(
    model: Annotated[
        str | None, typer.Argument(help="As for the other commands; --dry-run also takes --config")
    ] = None,
    budget: Annotated[
        list[str] | None, typer.Option(help="decode=6ms, ttft=120ms, memory=90MB, 'params>=80M', …; repeatable")
    ] = None,
    out: Annotated[Path, typer.Option(help="Run folder")] = Path("runs/search"),
    device: Device = "cpu",
    tables: Tables = None,
    text: Annotated[Path | None, typer.Option(help="Own training text: .txt, .jsonl or .parquet")] = None,
    precision: Precisions = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Architecture steps on the supernet [default: 16 with --rank-by losses, else 0]", min=0),
    ] = None,
    distil_steps: Annotated[int, typer.Option(help="Distillation steps", min=0)] = 40,
    front: Annotated[int, typer.Option(help="Budgets to search: each as given and looser ones, x1.25 each", min=1)] = 1,
    train_on: TrainOn = None,
    space: SpaceName = "auto",
    data: Annotated[
        str | None, typer.Option(help="Training text in place of --text: a file, a hub data set, or self-generated")
    ] = None,
    judge: Annotated[
        bool, typer.Option(help="End with all measured and judged beside the original: results.json, report.html")
    ] = True,
    sequences: Annotated[int | None, typer.Option(help="Sequences a training step [default: 2]")] = None,
    distil: Annotated[str, typer.Option(help="full, or lora: low-rank pairs beside frozen weights")] = "full",
    hidden: Annotated[float, typer.Option(help="Weight of hidden states in distillation, beside answers")] = 0.0,
    lr: Annotated[float | None, typer.Option(help="Learning rate of distillation [default: 2e-4]")] = None,
    supernet_lr: Annotated[float | None, typer.Option(help="Of the supernet's weights [default: 1e-3]")] = None,
    architecture_lr: Annotated[float | None, typer.Option(help="Of the architecture [default: 0.25]")] = None,
    recompute: Annotated[bool, typer.Option("--recompute", help="Gradient checkpointing: less memory, slower")] = False,
    checkpoint_minutes: Annotated[float, typer.Option(help="Save at least so often; 0: by steps alone")] = 5.0,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log steps there too, not to CSV alone")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the memory plan and stop")] = False,
    config: Annotated[Path | None, typer.Option(help="--dry-run: a config.json in place of MODEL")] = None,
    gpu_memory: Annotated[
        str | None, typer.Option(help="--dry-run: plan for a GPU of that memory, as 80GB, that need not be here")
    ] = None,
    strategy: Annotated[
        str,
        typer.Option(
            help="joint, integer_programme, evolutionary, random, sequential, quantise_first, bits or uniform"
        ),
    ] = "joint",
    evaluations: Annotated[
        int | None, typer.Option(help="Subnets to compare by loss [default: as many as a joint search]")
    ] = None,
    rank_by: Annotated[
        str | None,
        typer.Option(help="losses in the supernet, or damages added up [default: damages, unless --distil-steps is 0]"),
    ] = None,
    aim: Annotated[float, typer.Option(help="Share of a budget to use as measured; a quiet device allows more")] = 0.95,
    batch: Batch = 1,
    prompt: Prompt = 128,
    context: Context = 128,
    also: Annotated[
        list[str] | None,
        typer.Option(help="Another budget, from the same supernet, such as 'ttft=80ms memory=120MB'; repeatable"),
    ] = None,
) -> None:
    """Search MODEL for the best subnet under every --budget at once, distil it and export it."""
    commands().search(
        model=model,
        budget=budget or (),
        out=out,
        device=device,
        tables=tables,
        text=text,
        precision=precision or (),
        steps=steps,
        distil_steps=distil_steps,
        front=front,
        train_on=train_on,
        space=space,
        data=data,
        judge=judge,
        sequences=sequences,
        distil=distil,
        hidden=hidden,
        lr=lr,
        supernet_lr=supernet_lr,
        architecture_lr=architecture_lr,
        recompute=recompute,
        checkpoint_minutes=checkpoint_minutes,
        tensorboard=tensorboard,
        dry_run=dry_run,
        config=config,
        gpu_memory=gpu_memory,
        strategy=strategy,
        evaluations=evaluations,
        rank_by=rank_by,
        aim=aim,
        batch=batch,
        prompt=prompt,
        context=context,
        also=also or (),
    )


def add(app: typer.Typer) -> None:
    """Give `app` the command."""
    app.command()(search)
