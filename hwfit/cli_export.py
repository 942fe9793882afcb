"""The front door of `hwfit export` and `hwfit generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _commands():  # pyright infers the module
    from hwfit import export_command

    return export_command


def export(
    folder: Annotated[Path, typer.Argument(help="Folder with a searched subnet, or with --model a subnet.json")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write [default: FOLDER for onnx, else FOLDER/FORMAT]")
    ] = None,
    format: Annotated[
        str, typer.Option(help="onnx, hf, compressed-tensors, compressed-tensors-symmetric or gguf")
    ] = "onnx",
    nearest: Annotated[
        bool, typer.Option("--nearest", help="Where the format cannot hold the subnet, write the nearest that it can")
    ] = False,
    max_context: Annotated[int, typer.Option(help="Tokens of prompt and answer that an ONNX graph takes")] = 512,
    model: Annotated[
        str | None, typer.Option(help="Cut a subnet that has no weights out of this model, without distilling")
    ] = None,
) -> None:
    """Write a searched subnet for ONNX Runtime, transformers, vLLM or llama.cpp, with a model card."""
    _commands().export(folder, out, format, nearest, max_context, model)


def generate(
    folder: Annotated[Path, typer.Argument(help="Deployed folder")],
    prompt: Annotated[str, typer.Option(help="Text to continue")],
    tokens: Annotated[int, typer.Option(help="At most so many tokens", min=1)] = 64,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token each time", min=0.0)] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the draws at a temperature")] = 0,
    chat: Annotated[bool, typer.Option("--chat", help="Ask in the tokenizer's chat template")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
) -> None:
    """Continue a prompt with a deployed model and print tokens a second."""
    _commands().generate(folder, prompt, tokens, temperature, seed, chat, device)


def register(app: typer.Typer) -> None:
    app.command()(export)
    app.command()(generate)
