"""The front door of the judging commands: each is the public function of the same name in `hwfit.commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwfit.cli_options import commands

TASKS = "boolq,piqa,hellaswag,winogrande,arc_easy,arc_challenge,mmlu"
PARTS = "flips,domains,languages,long,refusals"

Tasks = Annotated[str, typer.Option(help="Benchmarks, comma-separated")]
Data = Annotated[str, typer.Option(help="Where their documents come from: pack (pinned, offline) or hub")]
Device = Annotated[str, typer.Option(help="Device that runs the models: cpu or cuda")]
Threads = Annotated[int, typer.Option(help="Threads that run the models", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables")]
MODEL = "Deployed folder or .onnx file, known model, Llama-family directory, or hub id"


def evaluate(
    target: Annotated[list[str], typer.Argument(help=f"{MODEL}; several are compared")],
    documents: Annotated[int, typer.Option(help="Documents a benchmark, 0 for all", min=0)] = 40,
    rows: Annotated[int, typer.Option(help="Held-out sequences of 256 tokens for perplexity")] = 24,
    text: Annotated[Path | None, typer.Option(help="Own held-out text: .txt, .jsonl or .parquet")] = None,
    threads: Threads = 2,
    device: Device = "cpu",
    tasks: Tasks = TASKS,
    shots: Annotated[
        str, typer.Option(help="paper (5 WinoGrande, MMLU; 10 HellaSwag; 25 ARC-C), or a number")
    ] = "paper",
    data: Data = "pack",
    json: Json = False,
) -> None:
    """Perplexity on held-out text and accuracy on the paper's seven benchmarks; rerunning resumes."""
    commands().evaluate(
        target=target,
        documents=documents,
        rows=rows,
        text=text,
        threads=threads,
        device=device,
        tasks=tasks,
        shots=shots,
        data=data,
        json=json,
    )


def validate(
    original: Annotated[str, typer.Argument(help=MODEL)],
    compressed: Annotated[str, typer.Argument(help="The same, made from ORIGINAL")],
    tasks: Tasks = TASKS,
    shots: Annotated[str, typer.Option(help="A number, or paper")] = "0",
    documents: Annotated[int, typer.Option(help="Documents a benchmark")] = 50,
    rows: Annotated[int, typer.Option(help="Sequences of 128 tokens a domain")] = 8,
    context: Annotated[int, typer.Option(help="Tokens of a long sequence")] = 1024,
    parts: Annotated[str, typer.Option(help="What to compare, comma-separated")] = PARTS,
    max_flips: Annotated[str, typer.Option(help="Documents of any benchmark with another answer")] = "5%",
    max_kl: Annotated[float, typer.Option(help="Mean KL divergence, nats a token")] = 0.1,
    max_kl_p99: Annotated[float, typer.Option(help="KL divergence of one token in a hundred")] = 1.0,
    max_perplexity: Annotated[str, typer.Option(help="Increase in any domain, language or position")] = "10%",
    max_refusals: Annotated[
        str, typer.Option(help="Unsafe prompts no longer declined, or harmless ones newly")
    ] = "10%",
    threads: Threads = 2,
    device: Device = "cpu",
    data: Data = "pack",
    json: Json = False,
    out: Annotated[Path | None, typer.Option(help="A .json, or a folder for drift.json, for all that is found")] = None,
) -> None:
    """Say what compression changed that accuracy averages hide; exit code 1 if any limit is broken, 2 for bad use."""
    found = commands().validate(
        original=original,
        compressed=compressed,
        tasks=tasks,
        shots=shots,
        documents=documents,
        rows=rows,
        context=context,
        parts=parts,
        max_flips=max_flips,
        max_kl=max_kl,
        max_kl_p99=max_kl_p99,
        max_perplexity=max_perplexity,
        max_refusals=max_refusals,
        threads=threads,
        device=device,
        data=data,
        json=json,
        out=out,
    )
    if found.failures:
        raise typer.Exit(1)


def add(app: typer.Typer) -> None:
    """Give `app` the judging commands."""
    app.command()(evaluate)
    app.command()(validate)
