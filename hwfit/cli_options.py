"""What several commands of the front door share: their options, and the functions that they call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="Device to measure on: cpu or cuda")]
TrainOn = Annotated[
    str | None, typer.Option(help="Where to search and distil: cpu or cuda [default: cuda where there is a GPU]")
]
Tables = Annotated[
    Path | None,
    typer.Option(help="Folder of the latency table [default: the user's cache]; predict also reads `shipped`"),
]
Precisions = Annotated[list[str] | None, typer.Option(help="Precision choice, such as w4a8g32; repeatable")]
Config = Annotated[Path | None, typer.Option(help="A config.json in place of MODEL; no weights needed")]
ModelOrConfig = Annotated[str | None, typer.Argument(help="As for the other commands; or give --config")]
Batch = Annotated[int, typer.Option(help="Sequences at a time")]
Prompt = Annotated[int, typer.Option(help="Tokens of a prompt")]
Context = Annotated[int, typer.Option(help="Tokens that decode attends to")]
SpaceName = Annotated[str, typer.Option(help="auto (any model), fine, llama3, qllama3, or a .yaml file of your own")]


def commands():  # pyright infers the module, so that it checks what each command passes
    """`hwfit.commands`: torch and transformers load only when a command runs."""
    from hwfit import commands

    return commands
