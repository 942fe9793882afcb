"""Model card: README.md of an export, from what was written and what is known of the run it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hwfit import __version__
from hwfit.deploy.exporters import Exported
from hwfit.deploy.origin import Origin
from hwfit.subnet import Subnet

UNKNOWN = "unknown (the folder lies in no run that says)"


@dataclass(frozen=True)
class Facts:
    """What a run knows of one subnet, in words; what it does not is None.

    `latency` rows are phase, predicted, measured; `quality` rows are what, this model, the original.
    """

    budget: str | None = None
    latency: tuple[tuple[str, str, str], ...] = ()
    quality: tuple[tuple[str, str, str], ...] = ()
    device: str | None = None
    table: str | None = None
    training: str | None = None
    measured_as: str | None = None


def model_card(exported: Exported, origin: Origin, facts: Facts, asked: Subnet) -> str:
    """Markdown with the hub's front matter. `asked` is the subnet that was searched: what is written may be wider."""
    s = exported.bundle.subnet
    name = origin.name or "a Llama"
    lines = [
        *_front(exported, origin),
        f"# {name}, fitted by hwfit",
        "",
        f"A part of {name} for {exported.exporter.tool}. hwfit {__version__} chose its width, depth and precision "
        "together against measured latencies (after [arXiv 2606.04063](https://arxiv.org/abs/2606.04063)).",
        "",
        "## Origin",
        "",
        *_list(
            ("model", _said(origin.description or origin.name)),
            ("source", _said(origin.source)),
            ("licence", _said(origin.licence)),
            ("training", facts.training or UNKNOWN),
        ),
        "",
        "## What is kept",
        "",
        *_list(
            ("blocks", f"{len(s.blocks)}, the original's {_runs(s.blocks)}"),
            ("hidden", str(s.hidden)),
            ("heads", f"{s.heads} on {s.kv_heads} key/value heads of {s.head_size}"),
            ("MLP", _widths(s)),
            ("precisions searched", _precisions(asked)),
            ("parameters", f"{s.params / 1e6:.1f} million, {asked.mean_weight_bits:.2f} bits a weight as searched"),
            ("size", f"{exported.bytes / 1e6:.1f} MB"),
        ),
        "",
        "## What this format changes",
        "",
        *(f"- {note}" for note in exported.notes or ("nothing",)),
        "",
        "## Budget and latency",
        "",
        *_list(
            ("budget", facts.budget or UNKNOWN),
            ("device", facts.device or UNKNOWN),
            ("latency table", facts.table or UNKNOWN),
        ),
        "",
        *_table(("", "predicted", "measured"), facts.latency),
        *([f"Measured: {facts.measured_as}.", ""] if facts.latency and facts.measured_as else []),
        "## Quality lost",
        "",
        *_table(("", "this model", "the original"), facts.quality),
        *(["Judged as the deployed ONNX graph, not as this format.", ""] if facts.quality else []),
        "## Use",
        "",
        f"`{exported.exporter.how.format(path=exported.path.name if exported.exporter.opens else '.')}`",
        "",
    ]
    return "\n".join(lines)


def _front(exported: Exported, origin: Origin) -> list[str]:
    """The hub's metadata; only what is known."""
    library = {"onnx": "onnxruntime", "gguf": "llama.cpp"}.get(exported.format, "transformers")
    licence = [f"license: {origin.licence.lower()}"] if origin.licence else []
    return ["---", f"library_name: {library}", *licence, "pipeline_tag: text-generation", "tags: [hwfit]", "---", ""]


def _said(known: str | None) -> str:
    return known or "unknown"


def _list(*entries: tuple[str, str]) -> list[str]:
    return [f"- {name}: {text}" for name, text in entries]


def _table(head: tuple[str, str, str], rows: Sequence[tuple[str, str, str]]) -> list[str]:
    if not rows:
        return [UNKNOWN[0].upper() + UNKNOWN[1:] + ".", ""]
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * 3, *rows)] + [""]


def _widths(s: Subnet) -> str:
    return str(s.mlp[0]) if len(set(s.mlp)) == 1 else f"of {', '.join(map(str, s.mlp))} from block to block"


def _precisions(s: Subnet) -> str:
    """The most used first: `w4a8g32 (100 linears), …`."""
    counts = Counter(p.name for row in s.precision for p in row)
    inside = ", ".join(f"{name} ({count} linears)" for name, count in counts.most_common())
    return f"{inside}; head {s.lm_head}, embedding {s.embed}"


def _runs(blocks: Sequence[int]) -> str:
    """`0–3, 5, 7–9`."""
    parts: list[list[int]] = []
    for block in blocks:
        if parts and block == parts[-1][-1] + 1:
            parts[-1].append(block)
        else:
            parts.append([block])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in parts)
