"""The front door of `hwfit tables`: every command is the public function of the same name in `hwfit.table_commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look at, import, compare, check and export latency tables.", no_args_is_help=True)

Tables = Annotated[
    Path | None, typer.Option(help="Folder of the latency table, or `shipped` [default: the user's cache]")
]
Key = Annotated[str, typer.Argument(help="A device's key in the table, or its beginning", metavar="DEVICE")]


def _commands():  # pyright infers the module
    from hwfit import table_commands

    return table_commands


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="aiconfigurator, or a .csv or .parquet file", metavar="SOURCE")],
    device: Annotated[str, typer.Option(help="Device: a100-sxm, h100-sxm, … or a name for your own")],
    tables: Tables = None,
    framework: Annotated[str, typer.Option(help="aiconfigurator: trtllm, vllm or sglang")] = "trtllm",
    version: Annotated[str | None, typer.Option(help="aiconfigurator: one version of the framework [all]")] = None,
    bandwidth: Annotated[float | None, typer.Option(help="Your device's bytes a second from memory")] = None,
    flops: Annotated[float | None, typer.Option(help="Your device's operations a second at 16 bits")] = None,
) -> None:
    """Write published or your own measurements of a device into a table."""
    _commands().import_(source, device, tables, framework, version, bandwidth, flops)


@app.command()
def ls(tables: Tables = None) -> None:
    """The devices of a table, how many cells each has and where they come from."""
    _commands().ls(tables)


@app.command()
def show(
    device: Key,
    tables: Tables = None,
    kind: Annotated[str | None, typer.Option(help="linear, attention, norm, swiglu or embed")] = None,
    precision: Annotated[str | None, typer.Option(help="Such as w4a16")] = None,
    m: Annotated[int | None, typer.Option(help="Rows of the input")] = None,
) -> None:
    """The cells of a device."""
    _commands().show(device, tables, kind, precision, m)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="Device")],
    b: Annotated[str, typer.Argument(help="Device to compare with it")],
    tables: Tables = None,
    other: Annotated[Path | None, typer.Option(help="Table that B is in [default: the same]")] = None,
) -> None:
    """What a driver or library upgrade changed, with significance."""
    _commands().diff(a, b, tables, other)


@app.command()
def verify(tables: Tables = None) -> None:
    """Check every row of every part."""
    _commands().verify(tables)


@app.command()
def export(
    device: Key,
    out: Annotated[Path, typer.Option(help="A .csv or .parquet file")],
    tables: Tables = None,
) -> None:
    """Write the cells of a device to a file that `import` reads."""
    _commands().export(device, out, tables)
